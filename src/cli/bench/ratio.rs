//! How a server stands to the limit that is measured beside it.

use super::fan_out::Run;
use super::report::{cpu_micros, per_cpu_second};

/// A server's figures divided by the limit's; `None` where one of them is not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ratio {
    pub(super) per_cpu_second: Option<f64>,
    pub(super) cpu_per_message: Option<f64>,
    pub(super) p99: Option<f64>,
}

impl Ratio {
    pub(super) fn of(run: &Run, limit: &Run) -> Self {
        let p99 = |run: &Run| Some(run.latency.value_at_quantile(0.99) as f64);
        Self {
            per_cpu_second: divided(per_cpu_second(run), per_cpu_second(limit)),
            cpu_per_message: divided(cpu_micros(run), cpu_micros(limit)),
            p99: divided(p99(run), p99(limit)),
        }
    }

    /// The median of each figure.
    pub(super) fn median(ratios: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> Option<f64>| {
            let mut known: Vec<f64> = ratios.iter().filter_map(figure).collect();
            known.sort_by(f64::total_cmp);
            let middle = known.len() / 2;
            match known.len() {
                0 => None,
                odd if odd % 2 == 1 => Some(known[middle]),
                _ => Some(f64::midpoint(known[middle - 1], known[middle])),
            }
        };
        Self {
            per_cpu_second: of(|ratio| ratio.per_cpu_second),
            cpu_per_message: of(|ratio| ratio.cpu_per_message),
            p99: of(|ratio| ratio.p99),
        }
    }

    pub(super) fn text(&self) -> String {
        let figure = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.2}"));
        format!(
            "{} of the deliveries per CPU-second, {} times the CPU per message, {} times the p99",
            figure(self.per_cpu_second),
            figure(self.cpu_per_message),
            figure(self.p99),
        )
    }

    pub(super) fn json(&self, store: &str, load: &str) -> serde_json::Value {
        serde_json::json!({
            "ratio_of": store,
            "to": "bare",
            "load": load,
            "delivered_per_cpu_second": self.per_cpu_second,
            "cpu_per_message": self.cpu_per_message,
            "p99": self.p99,
        })
    }
}

fn divided(figure: Option<f64>, limit: Option<f64>) -> Option<f64> {
    figure.zip(limit.filter(|limit| *limit > 0.0)).map(|(figure, limit)| figure / limit)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::board::latencies;
    use super::super::pace::Pace;
    use super::super::process::CpuTime;
    use super::super::sequence::Faults;
    use super::*;

    fn run(delivered: u64, cpu_millis: Option<u64>, latency_micros: u64) -> Run {
        let mut latency = latencies().expect("valid bounds");
        latency.record(latency_micros).expect("in bounds");
        let cpu = |millis| CpuTime { user: Duration::from_millis(millis), system: Duration::ZERO };
        Run {
            pace: Pace::InFlight(1),
            subscribers: 1,
            elapsed: Duration::from_secs(1),
            changes: delivered,
            delivered,
            server_cpu: cpu_millis.map(cpu),
            generator_cpu: cpu(1),
            latency,
            faults: Faults::default(),
            memory: None,
            stalled: None,
            churn: None,
            until_sent: None,
        }
    }

    #[test]
    fn a_server_at_half_the_speed_is_one_half() {
        // 1,000 in 1 s of CPU against 4,000 in 2 s.
        let ratio = Ratio::of(&run(1_000, Some(1_000), 300), &run(4_000, Some(2_000), 100));
        assert_eq!(ratio, Ratio { per_cpu_second: Some(0.5), cpu_per_message: Some(2.0), p99: Some(3.0) });
    }

    #[test]
    fn what_is_not_known_has_no_ratio() {
        let known = run(1_000, Some(1_000), 100);
        for unknown in [run(1_000, None, 100), run(1_000, Some(0), 100)] {
            for ratio in [Ratio::of(&unknown, &known), Ratio::of(&known, &unknown)] {
                assert_eq!(ratio.per_cpu_second, None);
            }
        }
        let text = Ratio::of(&run(1, None, 100), &known).text();
        assert!(text.starts_with("- of the deliveries") && text.contains("1.00 times the p99"), "{text}");
    }

    #[test]
    fn the_middle_one_counts() {
        let ratio = |figure| Ratio { per_cpu_second: Some(figure), cpu_per_message: None, p99: Some(1.0) };
        let median =
            |figures: &[f64]| Ratio::median(&figures.iter().copied().map(ratio).collect::<Vec<_>>()).per_cpu_second;
        assert_eq!(median(&[0.9, 0.1, 0.4]), Some(0.4));
        assert_eq!(median(&[0.2, 0.8]), Some(0.5));
        assert_eq!(median(&[]), None);
        assert_eq!(Ratio::median(&[ratio(1.0)]).cpu_per_message, None);
    }
}
