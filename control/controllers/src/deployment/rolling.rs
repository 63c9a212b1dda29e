//! The arithmetic of roll-outs: how many replicas each replica set gets next. Pure.

use k8s_openapi::api::apps::v1::DeploymentSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How far a roll-out may leave the wanted number, both ways, in pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) wanted: i32,
    pub(crate) max_surge: i32,
    pub(crate) max_unavailable: i32,
}

impl Limits {
    /// Both zero would be a roll-out that can't move: then one may be unavailable.
    pub(crate) fn of(spec: &DeploymentSpec) -> Self {
        let wanted = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Self { wanted, max_surge: 0, max_unavailable: 0 };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.clone());
        let rolling = rolling.unwrap_or_default();
        let quarter = || IntOrString::String("25%".to_owned());
        let surge = scaled(&rolling.max_surge.unwrap_or_else(quarter), wanted, Round::Up);
        let unavailable =
            scaled(&rolling.max_unavailable.unwrap_or_else(quarter), wanted, Round::Down);
        let stuck = surge == 0 && unavailable == 0;
        let max_unavailable = if stuck { 1 } else { unavailable };
        Self { wanted, max_surge: surge, max_unavailable: max_unavailable.min(wanted) }
    }

    pub(crate) fn max_total(&self) -> i32 {
        if self.wanted == 0 { 0 } else { self.wanted.saturating_add(self.max_surge) }
    }

    pub(crate) fn min_available(&self) -> i32 {
        self.wanted - self.max_unavailable
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Round {
    Up,
    Down,
}

/// A number, or a percentage of `total`. What is neither counts as zero.
pub(crate) fn scaled(value: &IntOrString, total: i32, round: Round) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let Some(percent) = text.strip_suffix('%').and_then(|text| text.parse::<i64>().ok())
            else {
                return text.parse().unwrap_or(0).max(0);
            };
            let product = percent.max(0).saturating_mul(i64::from(total.max(0)));
            let share = match round {
                Round::Up => product.saturating_add(99) / 100,
                Round::Down => product / 100,
            };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

/// What is known of one replica set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set {
    /// Asked for in its spec.
    pub(crate) wanted: i32,
    pub(crate) available: i32,
}

/// The new set's next size while `old` are still there: never above the surge.
pub(crate) fn grow(limits: &Limits, new: Set, old: &[Set]) -> i32 {
    if new.wanted >= limits.wanted {
        return limits.wanted;
    }
    let total = new.wanted + old.iter().map(|set| set.wanted).sum::<i32>();
    let room = (limits.max_total() - total).max(0);
    new.wanted + room.min(limits.wanted - new.wanted)
}

/// The old sets' next sizes, oldest first: unhealthy replicas go first, then as many as leave
/// enough available. `new_unavailable` replicas of the new set count against the limit already.
pub(crate) fn shrink(limits: &Limits, new: Set, old: &[Set]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| set.wanted).collect();
    let total = new.wanted + sizes.iter().sum::<i32>();
    let new_unavailable = (new.wanted - new.available).max(0);
    let mut budget = (total - limits.min_available() - new_unavailable).max(0);
    if budget == 0 {
        return sizes;
    }
    // Removing what is not available never costs availability.
    for (size, set) in sizes.iter_mut().zip(old) {
        let cut = (set.wanted - set.available).max(0).min(budget).min(*size);
        *size -= cut;
        budget -= cut;
    }
    let available = new.available + old.iter().map(|set| set.available).sum::<i32>();
    let mut spare = (available - limits.min_available()).max(0);
    for size in &mut sizes {
        let cut = spare.min(*size);
        *size -= cut;
        spare -= cut;
    }
    sizes
}

/// Spreads a change of the deployment's size over its sets in proportion to their sizes, so that a
/// scale in the middle of a roll-out keeps the mix. `sizes` are in order of preference for the
/// remainder (the new set first, if any); `allowed` is the new total.
pub(crate) fn proportional(sizes: &[i32], allowed: i32) -> Vec<i32> {
    let total: i32 = sizes.iter().sum();
    let change = allowed - total;
    if change == 0 || total == 0 {
        return sizes.to_vec();
    }
    let mut left = change;
    let mut next: Vec<i32> = Vec::with_capacity(sizes.len());
    for size in sizes {
        let exact = f64::from(*size) * f64::from(change) / f64::from(total);
        let mut part = exact.round() as i32;
        part = if change > 0 { part.min(left) } else { part.max(left) };
        part = part.max(-size);
        left -= part;
        next.push(size + part);
    }
    // What rounding left over goes to, or comes from, the first that can bear it.
    for size in &mut next {
        let part = if left > 0 { left } else { left.max(-*size) };
        *size += part;
        left -= part;
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(wanted: i32, max_surge: i32, max_unavailable: i32) -> Limits {
        Limits { wanted, max_surge, max_unavailable }
    }

    fn set(wanted: i32, available: i32) -> Set {
        Set { wanted, available }
    }

    #[test]
    fn percentages_round_surge_up_and_unavailability_down() {
        let value = IntOrString::String("25%".to_owned());
        assert_eq!(scaled(&value, 6, Round::Up), 2);
        assert_eq!(scaled(&value, 6, Round::Down), 1);
        assert_eq!(scaled(&IntOrString::Int(3), 6, Round::Down), 3);
    }

    #[test]
    fn a_roll_out_that_could_not_move_may_lose_one() {
        let mut spec = DeploymentSpec { replicas: Some(3), ..Default::default() };
        let strategy = spec.strategy.get_or_insert_default();
        let rolling = strategy.rolling_update.get_or_insert_default();
        rolling.max_surge = Some(IntOrString::Int(0));
        rolling.max_unavailable = Some(IntOrString::String("10%".to_owned()));
        assert_eq!(Limits::of(&spec), limits(3, 0, 1));
    }

    /// Plays a roll-out in which every new pod becomes available before the next step.
    fn play(limits: Limits, start: i32) -> (Set, Vec<Set>) {
        let (mut new, mut old) = (set(0, 0), vec![set(start, start)]);
        for _ in 0..1000 {
            new.wanted = grow(&limits, new, &old);
            let total = new.wanted + old.iter().map(|set| set.wanted).sum::<i32>();
            assert!(total <= limits.max_total().max(start), "surge: {total} of {limits:?}");
            let sizes = shrink(&limits, new, &old);
            for (set, size) in old.iter_mut().zip(sizes) {
                set.wanted = size;
                set.available = set.available.min(size);
            }
            let available = new.available + old.iter().map(|set| set.available).sum::<i32>();
            assert!(available >= limits.min_available().min(start), "{available} of {limits:?}");
            if new.wanted == limits.wanted && new.available == new.wanted && old[0].wanted == 0 {
                break;
            }
            new.available = new.wanted;
        }
        (new, old)
    }

    #[test]
    fn every_roll_out_ends_and_keeps_its_limits() {
        for wanted in 0..12 {
            for surge in 0..5 {
                for unavailable in 0..5 {
                    if surge == 0 && unavailable == 0 {
                        continue;
                    }
                    let limits = limits(wanted, surge, unavailable.min(wanted));
                    if limits.max_surge == 0 && limits.max_unavailable == 0 {
                        continue;
                    }
                    let (new, old) = play(limits, wanted);
                    assert_eq!((new.wanted, old[0].wanted), (wanted, 0), "{limits:?}");
                }
            }
        }
    }

    #[test]
    fn unhealthy_old_replicas_go_before_healthy_ones() {
        let sizes = shrink(&limits(10, 2, 2), set(2, 0), &[set(4, 0), set(6, 6)]);
        assert_eq!(sizes, [2, 6], "the six available replicas are too few to touch");
    }

    #[test]
    fn a_scale_in_the_middle_keeps_the_mix() {
        assert_eq!(proportional(&[5, 5], 20), [10, 10]);
        assert_eq!(proportional(&[8, 2], 15), [12, 3]);
        assert_eq!(proportional(&[3, 3, 3], 10), [4, 3, 3]);
        assert_eq!(proportional(&[3, 3], 0), [0, 0]);
        for allowed in 0..40 {
            assert_eq!(proportional(&[7, 3, 1], allowed).iter().sum::<i32>(), allowed);
        }
    }
}
