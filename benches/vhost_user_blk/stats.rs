//! Medians, ratios and the like: pure.

use hdrhistogram::Histogram;

/// What one slice of one case on one backend gave.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    /// CPU seconds that the backend used meanwhile; none where its process is not known.
    pub(crate) backend_cpu: Option<f64>,
    /// CPU seconds that this client used meanwhile.
    pub(crate) client_cpu: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Slice {
    pub(crate) fn rate(&self) -> f64 {
        per(to_f64(self.operations), self.seconds)
    }
}

/// The medians over a case's slices.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) rate: f64,
    /// (highest − lowest) / median of the rate, in percent: how noisy the machine was.
    pub(crate) spread_percent: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) backend_cpu_us: Option<f64>,
    pub(crate) client_cpu_us: f64,
}

/// Medians over the slices; none without slices.
pub(crate) fn summarize(slices: &[Slice]) -> Option<Summary> {
    let rates: Vec<f64> = slices.iter().map(Slice::rate).collect();
    let rate = median(&rates)?;
    let highest = rates.iter().copied().fold(f64::MIN, f64::max);
    let lowest = rates.iter().copied().fold(f64::MAX, f64::min);
    let cpu: Vec<f64> = slices.iter().filter_map(cpu_us).collect();
    Some(Summary {
        rate,
        spread_percent: 100.0 * per(highest - lowest, rate),
        p50_us: median_of(slices, |slice| slice.p50_us)?,
        p99_us: median_of(slices, |slice| slice.p99_us)?,
        backend_cpu_us: median(&cpu),
        client_cpu_us: median_of(slices, |slice| {
            1e6 * per(slice.client_cpu, to_f64(slice.operations))
        })?,
    })
}

/// The median over rounds of this backend's rate to the baseline's in the same round: a machine that drifts hurts both alike.
pub(crate) fn ratio(slices: &[Slice], baseline: &[Slice]) -> Option<f64> {
    let ratios: Vec<f64> = slices
        .iter()
        .zip(baseline)
        .map(|(ours, theirs)| per(ours.rate(), theirs.rate()))
        .collect();
    median(&ratios)
}

/// A median of paired ratios, and between which values the true one lies in 95 of 100 such measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Paired {
    pub(crate) ratio: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The ratios of each round's slices, by what `value` says of a slice: their median, with its interval by order statistics (the sign test turned
/// around: no shape of the noise is assumed). None with less than six rounds, which can't give one.
pub(crate) fn paired(
    slices: &[Slice],
    baseline: &[Slice],
    value: impl Fn(&Slice) -> Option<f64>,
) -> Option<Paired> {
    let ratio = |(ours, theirs): (&Slice, &Slice)| Some(per(value(ours)?, value(theirs)?));
    let mut ratios: Vec<f64> = slices.iter().zip(baseline).filter_map(ratio).collect();
    ratios.sort_by(f64::total_cmp);
    let rank = rank_of_interval(ratios.len())?;
    Some(Paired {
        ratio: median(&ratios)?,
        low: *ratios.get(rank)?,
        high: *ratios.get(ratios.len().checked_sub(rank + 1)?)?,
    })
}

/// How many of the lowest (and of the highest) of `count` values lie outside the 95 % interval of their median: the largest number whose tail of
/// the binomial distribution is at most 2.5 %.
fn rank_of_interval(count: usize) -> Option<usize> {
    let n = f64::from(u32::try_from(count).ok()?);
    // In logarithms: 2^-n is too small for a long run.
    let (mut log_choose, mut tail) = (-n * std::f64::consts::LN_2, 0.0);
    let mut rank = None;
    for outside in 0..count {
        tail += f64::exp(log_choose);
        if tail > 0.025 {
            break;
        }
        rank = Some(outside);
        let k = f64::from(u32::try_from(outside).ok()?);
        log_choose += ((n - k) / (k + 1.0)).ln();
    }
    rank
}

/// CPU microseconds of the backend an operation.
pub(crate) fn cpu_us(slice: &Slice) -> Option<f64> {
    Some(1e6 * per(slice.backend_cpu?, to_f64(slice.operations))).filter(|us| *us > 0.0)
}

/// The middle value; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get((sorted.len() / 2).checked_sub(1)?)?;
    Some(f64::midpoint(lower, upper))
}

fn median_of(slices: &[Slice], value: impl Fn(&Slice) -> f64) -> Option<f64> {
    median(&slices.iter().map(value).collect::<Vec<_>>())
}

/// Median and 99th percentile in microseconds, of a histogram in nanoseconds.
pub(crate) fn percentiles(latency: &Histogram<u64>) -> (f64, f64) {
    let us = |quantile| to_f64(latency.value_at_quantile(quantile)) / 1e3;
    (us(0.5), us(0.99))
}

/// A quotient; 0 where there is nothing to divide by.
pub(crate) fn per(amount: f64, by: f64) -> f64 {
    if by > 0.0 { amount / by } else { 0.0 }
}

/// Counts here stay far below 2⁵³.
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "run by tests/bench_client.rs: a bench has no harness for them"
)]
mod tests {
    use super::*;

    fn slice(operations: u64, backend_cpu: Option<f64>) -> Slice {
        Slice {
            operations,
            seconds: 1.0,
            backend_cpu,
            client_cpu: 0.5,
            p50_us: 10.0,
            p99_us: 20.0,
        }
    }

    #[test]
    fn median_of_odd_even_and_nothing() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn one_disturbed_round_does_not_move_the_summary() {
        let slices = [
            slice(1000, Some(0.01)),
            slice(10, Some(0.01)),
            slice(1000, Some(0.01)),
        ];
        let summary = summarize(&slices).expect("three slices");
        assert_eq!(summary.rate, 1000.0);
        assert_eq!(summary.backend_cpu_us, Some(10.0));
        assert_eq!(summary.client_cpu_us, 500.0);
        assert_eq!(summary.spread_percent, 99.0);
    }

    #[test]
    fn ratio_pairs_the_rounds() {
        let baseline = [slice(100, None), slice(50, None), slice(200, None)];
        let ours = [slice(300, None), slice(150, None), slice(600, None)];
        assert_eq!(ratio(&ours, &baseline), Some(3.0));
        assert_eq!(ratio(&ours, &[]), None);
    }

    #[test]
    fn an_interval_of_a_median_needs_six_rounds_and_narrows() {
        assert_eq!(rank_of_interval(5), None);
        // Tables of the sign test at 5 %, two-sided.
        for (count, rank) in [(6, 0), (9, 1), (20, 5), (50, 17), (100, 39)] {
            assert_eq!(rank_of_interval(count), Some(rank), "{count}");
        }
        assert!(rank_of_interval(5000).is_some_and(|rank| (2400..2450).contains(&rank)));
        let theirs: Vec<Slice> = (0..20).map(|_| slice(100, Some(0.1))).collect();
        let mut ours: Vec<Slice> = (0..20).map(|_| slice(102, Some(0.102))).collect();
        ours[3] = slice(10, Some(0.5));
        let rate = paired(&ours, &theirs, |slice| Some(slice.rate())).expect("20 rounds");
        assert_eq!((rate.ratio, rate.low, rate.high), (1.02, 1.02, 1.02));
        let cpu = paired(&ours, &theirs, cpu_us).expect("20 rounds");
        assert!((cpu.ratio - 1.0).abs() < 1e-9, "{cpu:?}");
        assert_eq!(paired(&ours[..5], &theirs, cpu_us), None);
    }

    #[test]
    fn nothing_measured_is_no_summary_and_an_unknown_process_no_cpu() {
        assert_eq!(summarize(&[]), None);
        assert_eq!(
            summarize(&[slice(10, None)])
                .expect("one slice")
                .backend_cpu_us,
            None
        );
    }
}
