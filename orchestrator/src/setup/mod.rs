//! Setting up: the page on loopback with one button that makes an app of one's own, and where that app is kept.
//!
//! The browser and the terminal are one person. What reaches the page proves it by the random path that only the terminal
//! printed, by the name that it was asked under (another site's name may be made to lead to this machine), and forms by a
//! token that only the page holds.

pub mod keep;
pub mod page;
