//! A small random generator, so that a failing seed can be run again.

pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `sides`.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        (self.next() % sides.max(1) as u64) as usize
    }

    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.roll(n) == 0
    }

    pub(crate) fn bytes(&mut self, max: usize) -> Vec<u8> {
        let n = self.roll(max + 1);
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// Numbers that break things more often than others.
    pub(crate) fn number(&mut self) -> u32 {
        match self.roll(8) {
            0 => 0,
            1 => u32::MAX,
            2 => 1 << self.roll(32),
            3 => (1_u32 << 31).wrapping_add(self.roll(4) as u32),
            4 => 64 * 1024 + self.roll(3) as u32 - 1,
            _ => self.roll(20) as u32,
        }
    }
}
