//! What some of the bugs do wrong, kept out of crates that must not even know how.

use std::collections::HashMap;

/// `minor × quantity` by way of major units and a float, cut to whole minor units.
pub fn times_as_float(minor: i64, quantity: u32) -> i128 {
    ((minor as f64 / 100.0) * f64::from(quantity) * 100.0) as i128
}

/// The same items in an order that differs from one process, and one call, to the next.
pub fn without_order<T>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let map: HashMap<usize, T> = items.into_iter().enumerate().collect();
    map.into_values().collect()
}
