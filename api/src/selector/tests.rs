use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn label_selectors_select_as_documented() {
    let object = labels(&[("app", "web"), ("tier", "front"), ("weight", "5"), ("empty", "")]);
    for (selector, expected) in [
        ("", true),
        ("app", true),
        ("!app", false),
        ("! absent", true),
        ("app=web", true),
        ("app == web", true),
        ("app!=web", false),
        ("absent!=web", true),
        ("absent=", false),
        ("empty=", true),
        ("app in (web, api)", true),
        ("app notin (web,api)", false),
        ("absent notin (web)", true),
        ("empty in ()", true),
        ("empty in (,a)", true),
        ("weight>4", true),
        ("weight<5", false),
        ("app=web,tier=front", true),
        ("app=web,tier=back", false),
        ("example.com/name=x", false),
        ("in in (in)", false),
    ] {
        let parsed = LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
        assert_eq!(parsed.matches(&object), expected, "{selector}");
    }
}

#[test]
fn malformed_label_selectors_are_refused() {
    for text in [
        "app=web,",
        "=web",
        "app in web",
        "app in (web",
        "a b",
        "a=b=c",
        "a>x",
        "-a",
        "a=-b",
        "a,,b",
        "a in (b c)",
        "é=1",
    ] {
        assert!(LabelSelector::parse(text).is_err(), "{text:?} must be refused");
    }
}

#[test]
fn field_selectors_split_and_unescape() {
    let parsed =
        FieldSelector::parse("spec.nodeName=n1,status.phase!=Running,a==b\\,c\\=d").unwrap();
    assert_eq!(parsed.requirements.len(), 3);
    assert_eq!(parsed.requirements[2].value, "b,c=d");
    assert!(!parsed.requirements[1].equal);
    assert_eq!(parsed.required("spec.nodeName"), Some("n1"));
    assert_eq!(parsed.required("status.phase"), None);
    assert!(FieldSelector::parse("").unwrap().is_empty());
    for text in ["a", "a=b\\x", "a=b=c", "a>b"] {
        assert!(FieldSelector::parse(text).is_err(), "{text:?} must be refused");
    }
}

#[test]
fn a_selector_object_without_requirements_selects_all_and_a_wrong_one_is_refused() {
    let all = LabelSelector::from_object(&LabelSelectorObject::default()).unwrap();
    assert!(all.matches(&labels(&[])));
    let wrong = serde_json::json!({"matchExpressions": [{"key": "a", "operator": "In"}]});
    let wrong: LabelSelectorObject = serde_json::from_value(wrong).unwrap();
    assert_eq!(LabelSelector::from_object(&wrong), None);
}
