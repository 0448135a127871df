//! Figures about a running node, seen from outside: processor time from the kernel, counters from `/metrics`.

use std::fs;

/// Length of a clock tick in microseconds. The kernel reports process times to programs in ticks of 1/100 s on every
/// platform it runs on, whatever its own timer does.
const TICK_US: u64 = 10_000;

/// Processor time a process has used so far, user and system, all threads, in microseconds. `None` if there is no such
/// process, or no `/proc`.
pub fn cpu_us(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    cpu_ticks(&stat).map(|ticks| ticks * TICK_US)
}

/// Fields 14 and 15 of `/proc/<pid>/stat`. The second field is the program's name in parentheses and may hold anything,
/// so counting starts behind the last parenthesis.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Bytes a process has made the kernel write to disks so far. `None` if nobody may know.
pub fn disk_bytes(pid: u32) -> Option<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/io")).ok()?, "write_bytes:")
}

/// Memory a process holds now, in bytes.
pub fn memory_bytes(pid: u32) -> Option<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:").map(|kibibytes| kibibytes * 1_024)
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// All samples of a metric in Prometheus' text form: labels as they stand between the braces, and the value.
pub fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?,
            None => ("", rest),
        };
        let value = rest.strip_prefix(' ')?.split_whitespace().next()?.parse::<f64>().ok()?;
        Some((labels, value))
    })
}

/// The sum of all samples of a metric. `None` if there is no sample.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    samples(text, name).map(|(_, value)| value).reduce(|sum, sample| sum + sample)
}

/// The value of one label among those of a sample.
pub fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_program_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 123 45 0 0 20 0 8 0 1000 0";
        assert_eq!(cpu_ticks(stat), Some(168));
        assert_eq!(cpu_ticks("nonsense"), None);
        assert!(cpu_us(std::process::id()).is_some());
    }

    #[test]
    fn numbers_are_found_behind_their_names() {
        assert_eq!(field("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n", "write_bytes:"), Some(4_096));
        assert_eq!(field("VmRSS:\t    1234 kB\n", "VmRSS:"), Some(1_234));
        assert_eq!(field("", "VmRSS:"), None);
        assert!(memory_bytes(std::process::id()).is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn labels_are_found_by_name() {
        let labels = "method=\"GET\",route=\"/skus/{id}\",le=\"0.5\"";
        assert_eq!(
            (label(labels, "method"), label(labels, "le"), label(labels, "x")),
            (Some("GET"), Some("0.5"), None)
        );
        assert_eq!(samples("a_bucket{le=\"1\"} 3\n", "a_bucket").next(), Some(("le=\"1\"", 3.0)));
    }

    #[test]
    fn samples_of_one_metric_are_summed() {
        let text = "# TYPE agora_orders counter\nagora_orders_total{result=\"a b\"} 3\nagora_orders_total{result=\"}\"} 4 1700\n\
                    agora_orders_total_other 9\nagora_log_fsyncs_total 7\n# EOF\n";
        assert_eq!(metric(text, "agora_orders_total"), Some(7.0));
        assert_eq!(metric(text, "agora_log_fsyncs_total"), Some(7.0));
        assert_eq!(metric(text, "agora_log_fsyncs"), None);
    }
}
