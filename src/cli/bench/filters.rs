//! Filters as many clients would have them, rows that each match about ten of them, and who therefore gets what.

use crate::proto;

/// What filters look at in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Values {
    /// `robots_txt.usage`, by its number in [`STATUSES`].
    pub(super) status: u32,
    /// `limits.max_items`.
    pub(super) owner: u32,
    /// `limits.max_duration`.
    pub(super) region: u32,
    /// `limits.max_cost`.
    pub(super) price: u32,
}

/// One of the kinds of filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Pair { status: u32, owner: u32 },
    PairAndRange { status: u32, region: u32, price_min: u32 },
    ValueAndRange { region: u32, price_min: u32, price_end: u32 },
    Range { price_min: u32, price_end: u32 },
}

/// How many values there are of each kind, such that a row matches ten filters of the mix, however many there are:
/// 0.8 pairs, 7.1 pairs with a range, 1.1 values with a range, 1 range.
#[derive(Clone, Copy, Debug)]
struct Spread {
    owners: u32,
    regions: u32,
    /// Of filters that are nothing else.
    range_width: u32,
}

const STATUSES: [&str; 3] = ["OBEY", "INVERT", "IGNORE"];
const PRICES: u32 = 10_000_000;
const VALUE_RANGE_WIDTH: u32 = PRICES / 16;

impl Spread {
    fn of(filters: usize) -> Self {
        let filters = u32::try_from(filters).unwrap_or(u32::MAX).max(1);
        Self {
            owners: (filters / 4).max(1),
            regions: (filters / 170).max(1),
            range_width: (20 * u64::from(PRICES) / u64::from(filters)).min(u64::from(PRICES)) as u32,
        }
    }
}

impl Filter {
    /// `count` filters: of twenty, twelve compare a pair, five a pair and a range, two a value and a range, and one a range.
    pub(super) fn mix(count: usize) -> Vec<Self> {
        let Spread { owners, regions, range_width } = Spread::of(count);
        let mut random = Random(1);
        let mut pairs = 0;
        let of_kind = |at: usize| match at % 20 {
            0..12 => {
                pairs += 1;
                Self::Pair { status: pairs % 3, owner: pairs / 3 % owners }
            }
            12..17 => Self::PairAndRange {
                status: random.below(3),
                region: random.below(regions),
                price_min: random.below(PRICES),
            },
            17..19 => {
                let price_min = random.below(PRICES);
                Self::ValueAndRange {
                    region: random.below(regions),
                    price_min,
                    price_end: price_min + VALUE_RANGE_WIDTH,
                }
            }
            _ => {
                let price_min = random.below(PRICES);
                Self::Range { price_min, price_end: price_min + range_width }
            }
        };
        (0..count).map(of_kind).collect()
    }

    /// Whether a row with `values` is for whoever has this filter.
    pub(super) fn matches(&self, values: &Values) -> bool {
        match *self {
            Self::Pair { status, owner } => values.status == status && values.owner == owner,
            Self::PairAndRange { status, region, price_min } => {
                values.status == status && values.region == region && values.price >= price_min
            }
            Self::ValueAndRange { region, price_min, price_end } => {
                values.region == region && (price_min..price_end).contains(&values.price)
            }
            Self::Range { price_min, price_end } => (price_min..price_end).contains(&values.price),
        }
    }

    /// The filter as the server is told it.
    pub(super) fn text(&self) -> String {
        let status_is = |status: u32| format!("robots_txt.usage == \"{}\"", STATUSES[status as usize]);
        match *self {
            Self::Pair { status, owner } => format!("{} && limits.max_items == {owner}", status_is(status)),
            Self::PairAndRange { status, region, price_min } => {
                let status = status_is(status);
                format!("{status} && limits.max_duration == {region} && limits.max_cost >= {price_min}")
            }
            Self::ValueAndRange { region, price_min, price_end } => format!(
                "limits.max_duration == {region} && limits.max_cost >= {price_min} && limits.max_cost < {price_end}"
            ),
            Self::Range { price_min, price_end } => {
                format!("limits.max_cost >= {price_min} && limits.max_cost < {price_end}")
            }
        }
    }
}

impl Values {
    /// Those of `count` rows, for `filters` filters.
    pub(super) fn spread(count: usize, filters: usize) -> Vec<Self> {
        let Spread { owners, regions, .. } = Spread::of(filters);
        let mut random = Random(2);
        let mut next = || Self {
            status: random.below(3),
            owner: random.below(owners),
            region: random.below(regions),
            price: random.below(PRICES),
        };
        (0..count).map(|_| next()).collect()
    }

    /// Writes them into `policy`.
    pub(super) fn put(&self, policy: &mut proto::Policy) {
        use proto::policy_robots_txt::Usage;
        let usage = [Usage::Obey, Usage::Invert, Usage::Ignore][self.status as usize];
        policy.robots_txt = Some(proto::PolicyRobotsTxt { usage: usage.into() });
        policy.limits = Some(proto::PolicyLimits {
            max_cost: Some(f64::from(self.price)),
            max_duration: Some(f64::from(self.region)),
            max_items: i32::try_from(self.owner).ok(),
        });
    }
}

/// How many of `filters` each of `rows` matches, by trying all.
pub(super) fn matching(filters: &[Filter], rows: &[Values]) -> Vec<u32> {
    rows.iter().map(|values| filters.iter().map(|filter| u32::from(filter.matches(values))).sum()).collect()
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    /// Below `end`.
    fn below(&mut self, end: u32) -> u32 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % u64::from(end)) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::change::Document;
    use crate::matcher::{self, FilterLimits};

    #[test]
    fn a_row_matches_about_ten_of_a_mix_of_distinct_filters() {
        for count in [20_000, 100_000] {
            let filters = Filter::mix(count);
            let of_kind = |is_kind: fn(&Filter) -> bool| filters.iter().filter(|filter| is_kind(filter)).count();
            assert_eq!(of_kind(|filter| matches!(filter, Filter::Pair { .. })), count * 60 / 100);
            assert_eq!(of_kind(|filter| matches!(filter, Filter::PairAndRange { .. })), count * 25 / 100);
            assert_eq!(of_kind(|filter| matches!(filter, Filter::ValueAndRange { .. })), count * 10 / 100);
            assert_eq!(of_kind(|filter| matches!(filter, Filter::Range { .. })), count * 5 / 100);
            let texts: HashSet<String> = filters.iter().map(Filter::text).collect();
            assert!(texts.len() >= count * 999 / 1000, "{} of {count} are distinct", texts.len());
            let rows = Values::spread(400, count);
            let total: u32 = matching(&filters, &rows).iter().sum();
            let mean = f64::from(total) / 400.0;
            assert!((9.0..11.0).contains(&mean), "{mean} matches with {count}");
        }
    }

    /// What this program believes of a filter is what the server's own language says of its text.
    #[test]
    fn the_texts_mean_what_is_matched_here() {
        let filters = Filter::mix(2_000);
        let rows = Values::spread(40, 2_000);
        let mut matched = 0;
        for filter in &filters {
            let read = matcher::Filter::parse(&filter.text(), &FilterLimits::default()).expect("a filter");
            for values in &rows {
                let text = format!(
                    "{{\"robots_txt\":{{\"usage\":\"{}\"}},\"limits\":{{\"max_items\":{},\"max_duration\":{}.0,\"max_cost\":{}.0}}}}",
                    STATUSES[values.status as usize], values.owner, values.region, values.price,
                );
                let document = Document::parse(text.as_bytes()).expect("a document");
                assert_eq!(read.matches(&document), filter.matches(values), "{} of {text}", filter.text());
                matched += usize::from(filter.matches(values));
            }
        }
        assert!(matched > 200, "{matched}");
    }
}
