//! Figures of several rounds, and tables of them.

use std::fmt;

/// The median of several figures, and between what the true one lies with 95 % confidence: by the
/// ranks of the figures (binomial, normal approximation), so nothing is assumed of how they are
/// spread. With fewer than six it is the lowest and the highest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    /// `None` without any figure.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let sorted = sorted(figures);
        let last = sorted.len().checked_sub(1)?;
        let half = 1.96 * (sorted.len() as f64).sqrt() / 2.0;
        let low = ((last as f64 / 2.0 - half).floor().max(0.0)) as usize;
        let median = percentile(&sorted, 50.0)?;
        Some(Self { low: sorted[low], median, high: sorted[last - low] })
    }

    /// `median (low-high)` with so many digits after the point.
    pub fn text(&self, digits: usize) -> String {
        let Self { low, median, high } = self;
        format!("{median:.digits$} ({low:.digits$}-{high:.digits$})")
    }
}

/// The figures in rising order.
pub fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The figure below which `percent` of all lie, between its neighbours where it falls there.
pub fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = percent / 100.0 * last as f64;
    let (below, above) = (place.floor() as usize, (place.ceil() as usize).min(last));
    Some(sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64))
}

/// Rows under a head, the first column to the left and the others to the right.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                if column == 0 {
                    write!(out, "{cell:<width$}")?;
                } else {
                    write!(out, "  {cell:>width$}")?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_between_the_two_in_the_middle() {
        let spread = Spread::of(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(spread, Spread { low: 1.0, median: 2.5, high: 4.0 });
        assert_eq!(spread.text(1), "2.5 (1.0-4.0)");
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn the_interval_of_the_median_leaves_out_the_outer_rounds() {
        let rounds: Vec<f64> = (1..=21).map(f64::from).collect();
        // Ranks 6 and 16 of 21 enclose the median with 97 %, ranks 7 and 15 with 92 %.
        assert_eq!(Spread::of(&rounds), Some(Spread { low: 6.0, median: 11.0, high: 16.0 }));
        assert_eq!(Spread::of(&[7.0]), Some(Spread { low: 7.0, median: 7.0, high: 7.0 }));
    }

    #[test]
    fn the_99th_percentile_is_near_the_largest() {
        let figures: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(percentile(&figures, 99.0), Some(99.0));
        assert_eq!(percentile(&[7.0], 99.0), Some(7.0));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["a", "long head"]);
        table.row(vec!["longer".to_owned(), "1".to_owned()]);
        assert_eq!(table.to_string(), "a       long head\nlonger          1\n");
    }
}
