//! Chance: even numbers, and which SKU is wanted.

use crate::cli::Distribution;

/// Exponent of the Zipf distribution, as in YCSB.
const ZIPF_EXPONENT: f64 = 0.99;

/// SplitMix64 (Steele, Lea, Flood 2014): good enough to choose goods, and three instructions.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `bound` - 1, all alike; `bound` must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "nothing is below 0");
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Chooses one of so many SKUs.
#[derive(Clone, Debug)]
pub enum Choice {
    /// All alike.
    Uniform(usize),
    /// The first one in nine of ten orders, in their first line; all else is even.
    Hot(usize),
    /// A few often, most seldom.
    Zipf(Zipf),
}

impl Choice {
    /// Of `count` SKUs; hot needs two.
    pub fn new(distribution: Distribution, count: usize) -> Choice {
        match distribution {
            Distribution::Uniform => Choice::Uniform(count),
            Distribution::Hot => Choice::Hot(count),
            Distribution::Zipf => Choice::Zipf(Zipf::new(count)),
        }
    }

    /// The place of a SKU.
    pub fn pick(&self, first_line: bool, dice: &mut Dice) -> usize {
        match self {
            Choice::Uniform(count) => dice.below(*count),
            Choice::Hot(_) if first_line && dice.below(10) < 9 => 0,
            Choice::Hot(count) => 1 + dice.below(count - 1),
            Choice::Zipf(zipf) => zipf.pick(dice),
        }
    }
}

/// Zipf in constant time per choice (Gray and others, SIGMOD 1994), with ranks scattered over the places, so that what is wanted
/// most does not lie side by side.
#[derive(Clone, Debug)]
pub struct Zipf {
    count: usize,
    zeta: f64,
    alpha: f64,
    eta: f64,
    stride: usize,
}

impl Zipf {
    fn new(count: usize) -> Zipf {
        assert!(count > 0, "nothing to choose from");
        let zeta: f64 = (1..=count).map(|rank| (rank as f64).powf(-ZIPF_EXPONENT)).sum();
        let zeta_two = 1.0 + 0.5_f64.powf(ZIPF_EXPONENT);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - ZIPF_EXPONENT)) / (1.0 - zeta_two / zeta);
        // A step without a common divisor with the count visits every place once.
        let golden = (count as f64 * 0.618_033_988_75) as usize;
        let stride = (golden.max(1)..).find(|step| divisor(*step, count) == 1).unwrap_or(1);
        Zipf { count, zeta, alpha: 1.0 / (1.0 - ZIPF_EXPONENT), eta, stride }
    }

    /// The rank from 0, the most wanted first.
    fn rank(&self, dice: &mut Dice) -> usize {
        let unit = dice.unit();
        let scaled = unit * self.zeta;
        let rank = if scaled < 1.0 {
            0
        } else if scaled < 1.0 + 0.5_f64.powf(ZIPF_EXPONENT) {
            1
        } else {
            (self.count as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha)) as usize
        };
        rank.min(self.count - 1)
    }

    fn pick(&self, dice: &mut Dice) -> usize {
        (self.rank(dice) as u128 * self.stride as u128 % self.count as u128) as usize
    }
}

fn divisor(mut left: usize, mut right: usize) -> usize {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_ranks_fall_as_their_law_says() {
        const DRAWS: usize = 200_000;
        let zipf = Zipf::new(1_000);
        let mut dice = Dice::new(7);
        let mut counts = vec![0_usize; 1_000];
        for _ in 0..DRAWS {
            counts[zipf.rank(&mut dice)] += 1;
        }
        // The first two ranks are exact in this method, the others an approximation.
        for (rank, slack) in [(0, 0.03), (1, 0.03), (9, 0.2), (99, 0.2)] {
            let expected = DRAWS as f64 * ((rank + 1) as f64).powf(-ZIPF_EXPONENT) / zipf.zeta;
            let off = (counts[rank] as f64 - expected).abs() / expected;
            assert!(off < slack, "rank {rank}: {} of {expected:.0}", counts[rank]);
        }
    }

    #[test]
    fn every_rank_has_a_place_of_its_own() {
        for count in [1, 2, 3, 10, 1_000, 4_096] {
            let zipf = Zipf::new(count);
            let mut places: Vec<usize> = (0..count).map(|rank| rank * zipf.stride % count).collect();
            places.sort_unstable();
            assert_eq!(places, (0..count).collect::<Vec<_>>(), "{count}");
        }
    }

    #[test]
    fn all_choices_stay_within_their_bounds() {
        let mut dice = Dice::new(1);
        for distribution in [Distribution::Uniform, Distribution::Hot, Distribution::Zipf] {
            let choice = Choice::new(distribution, 2);
            assert!((0..1_000).all(|draw| choice.pick(draw % 2 == 0, &mut dice) < 2), "{distribution:?}");
        }
    }

    #[test]
    fn hot_is_nine_of_ten_first_lines_and_no_other() {
        let choice = Choice::new(Distribution::Hot, 1_000);
        let mut dice = Dice::new(42);
        let hot = (0..10_000).filter(|_| choice.pick(true, &mut dice) == 0).count();
        assert!((8_800..9_200).contains(&hot), "{hot}");
        assert!((0..10_000).all(|_| choice.pick(false, &mut dice) != 0));
    }
}
