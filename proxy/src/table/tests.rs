use super::*;

fn changes(table: &Table<&'static str, u32>, since: Revision) -> Vec<(&'static str, Option<u32>)> {
    table
        .changes_since(since)
        .map(|change| match change {
            Change::Present(key, row) => (*key, Some(row.value)),
            Change::Gone(key, _) => (*key, None),
        })
        .collect()
}

#[test]
fn each_changed_key_is_told_once_with_its_latest_state() {
    let mut table = Table::default();
    table.upsert("a", 1);
    table.upsert("b", 1);
    let seen = table.revision();
    table.upsert("a", 2);
    table.upsert("c", 1);
    table.upsert("a", 3);
    table.delete("c");
    assert_eq!(changes(&table, seen), [("a", Some(3)), ("c", None)]);
    assert_eq!(changes(&table, table.revision()), []);
}

#[test]
fn an_equal_value_is_no_change() {
    let mut table = Table::default();
    assert!(table.upsert("a", 1));
    let revision = table.revision();
    table.set_status(&"a", revision, Status::Done);
    assert!(!table.upsert("a", 1));
    assert_eq!(table.revision(), revision);
    assert_eq!(table.get(&"a").map(|row| &row.status), Some(&Status::Done));
}

#[test]
fn a_report_about_an_older_value_is_dropped() {
    let mut table = Table::default();
    table.upsert("a", 1);
    let old = table.revision();
    table.upsert("a", 2);
    assert!(!table.set_status(&"a", old, Status::Done));
    assert_eq!(table.get(&"a").map(|row| &row.status), Some(&Status::Pending));
}

#[test]
fn a_row_that_came_back_is_not_forgotten() {
    let mut table = Table::default();
    table.upsert("a", 1);
    table.delete("a");
    let deleted = table.revision();
    table.upsert("a", 2);
    table.forget(&"a", deleted);
    assert_eq!(changes(&table, Revision(0)), [("a", Some(2))]);
    assert_eq!(table.deletions_pending(), 0);
}

#[test]
fn forgetting_a_deletion_leaves_no_trace() {
    let mut table = Table::default();
    table.upsert("a", 1);
    table.delete("a");
    table.forget(&"a", table.revision());
    assert_eq!(changes(&table, Revision(0)), []);
    assert!(table.log.is_empty() && table.gone.is_empty());
}
