//! The page of `onramp init github`: one button, then where the app is installed. It works without scripts, and everything
//! that it shows is escaped, since names of repositories and words of GitHub come from outside.

use serde::Serialize;

use crate::{RenderError, render};

/// Its style sheet.
pub const SETUP_CSS: &str = include_str!("../setup.css");

/// What the page shows.
#[derive(Debug, Serialize)]
pub struct SetupPage<'a> {
    /// The path that all of it lies under.
    pub here: &'a str,
    /// What each form proves that it comes from this page with.
    pub token: &'a str,
    /// Whether it is asked for again by itself.
    pub refreshes: bool,
    /// What went wrong.
    pub trouble: Option<SetupTrouble<'a>>,
    /// Before there is an app.
    pub ask: Option<SetupAsk<'a>>,
    /// When there is one.
    pub app: Option<SetupApp<'a>>,
    /// Accounts whose installation is suspended.
    pub suspended: Vec<&'a str>,
    /// Where it is installed.
    pub repositories: Vec<SetupRepository<'a>>,
    /// The end.
    pub is_done: bool,
}

/// What went wrong, and what to do.
#[derive(Debug, Serialize)]
pub struct SetupTrouble<'a> {
    /// One or two sentences.
    pub message: &'a str,
    /// One sentence.
    pub next_step: &'a str,
}

/// The one button.
#[derive(Debug, Serialize)]
pub struct SetupAsk<'a> {
    /// Where it leads.
    pub action: &'a str,
    /// JSON.
    pub manifest: &'a str,
    /// `github.com`.
    pub web_host: &'a str,
    /// Whose app it becomes; `None`: the person's own.
    pub organization: Option<&'a str>,
    /// Where secrets will lie.
    pub secrets_dir: &'a str,
    /// Where deliveries will come to.
    pub hook: Option<&'a str>,
    /// Whether it may change workflows.
    pub workflows: bool,
}

/// The app that there is.
#[derive(Debug, Serialize)]
pub struct SetupApp<'a> {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: &'a str,
    /// Its page.
    pub url: &'a str,
    /// Where it is installed.
    pub install_url: &'a str,
    /// What names it here.
    pub config_file: &'a str,
}

/// A repository that the app was installed on.
#[derive(Debug, Serialize)]
pub struct SetupRepository<'a> {
    /// `owner/name`.
    pub name: &'a str,
    /// `none`, `running`, `open` or `failed`.
    pub state: &'a str,
    /// What became of the offer.
    pub words: &'a str,
    /// Where its pull request is.
    pub url: &'a str,
}

/// Renders the page.
///
/// # Errors
/// Only for a defect in the template.
pub fn setup_page(context: &SetupPage<'_>) -> Result<String, RenderError> {
    render("setup.html.j2", context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> SetupPage<'static> {
        SetupPage {
            here: "/setup/x",
            token: "t",
            refreshes: false,
            trouble: None,
            ask: None,
            app: None,
            suspended: vec![],
            repositories: vec![],
            is_done: false,
        }
    }

    #[test]
    fn what_comes_from_outside_is_text_on_the_page() {
        let evil = "\"><script>alert(1)</script>";
        let ask = SetupAsk {
            action: "https://github.com/settings/apps/new?state=s",
            manifest: "{\"name\":\"a'b\"}",
            web_host: evil,
            organization: Some(evil),
            secrets_dir: evil,
            hook: Some(evil),
            workflows: true,
        };
        let app = SetupApp { id: 1, name: evil, url: evil, install_url: evil, config_file: evil };
        let repository = SetupRepository { name: evil, state: "open", words: evil, url: evil };
        let trouble = SetupTrouble { message: evil, next_step: evil };
        let html = setup_page(&SetupPage {
            trouble: Some(trouble),
            ask: Some(ask),
            app: Some(app),
            suspended: vec![evil],
            repositories: vec![repository],
            ..page()
        });
        let html = html.unwrap();
        assert!(!html.contains("<script"), "{html}");
        assert!(html.matches("&lt;script&gt;").count() >= 12, "{html}");
        assert!(html.contains("value=\"{&quot;name&quot;:&quot;a&#x27;b&quot;}\""), "{html}");
    }

    #[test]
    fn it_asks_again_only_while_something_is_awaited() {
        assert!(!setup_page(&page()).unwrap().contains("http-equiv"));
        assert!(setup_page(&SetupPage { refreshes: true, ..page() }).unwrap().contains("http-equiv=\"refresh\""));
    }
}
