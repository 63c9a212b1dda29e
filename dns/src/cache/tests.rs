//! What is kept, for how long, and for whom.

use hickory_proto::{
    op::{Edns, Message, MessageType, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, SOA},
    },
};
use proptest::prelude::*;

use super::*;

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
    message.set_edns(Edns::new());
    message.to_vec().expect("encodes")
}

fn answer(query: &[u8], change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let query = Message::from_vec(query).expect("decodes");
    let mut answer = Message::new(query.id, MessageType::Response, query.op_code);
    answer.metadata.authoritative = true;
    answer.queries.clone_from(&query.queries);
    answer.set_edns(Edns::new());
    change(&mut answer);
    answer.to_vec().expect("encodes")
}

fn address(message: &mut Message, ttl: u32) {
    let name = message.queries[0].name().clone();
    message.add_answer(Record::from_rdata(name, ttl, RData::A(A([192, 0, 2, 1].into()))));
}

fn soa(message: &mut Message, ttl: u32, minimum: u32) {
    let name = Name::from_ascii("com.").expect("a name");
    let soa = SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, minimum);
    message.add_authority(Record::from_rdata(name, ttl, RData::SOA(soa)));
}

fn after(seconds: u64, start: Instant) -> Instant {
    start + Duration::from_secs(seconds)
}

/// How long the answer is kept as fresh, in seconds.
fn kept_for(change: impl FnOnce(&mut Message)) -> u64 {
    let query = query(1, "a.example.com.");
    let mut cache = Cache::default();
    let start = Instant::now();
    cache.put(&query, Transport::Udp, &answer(&query, change), start);
    let fresh = |seconds: &u64| {
        let at = after(*seconds, start);
        cache.get(&query, Transport::Udp, Accept::Fresh, at).is_some()
    };
    (0..100).take_while(fresh).count() as u64
}

#[test]
fn an_answer_is_kept_for_its_shortest_ttl_and_not_for_long() {
    assert_eq!(kept_for(|message| address(message, 7)), 7);
    assert_eq!(
        kept_for(|message| {
            address(message, 20);
            address(message, 5);
        }),
        5
    );
    assert_eq!(kept_for(|message| address(message, 86400)), FRESH_MAX.as_secs());
    assert_eq!(kept_for(|message| address(message, 0)), 0);
}

#[test]
fn a_negative_answer_is_kept_by_its_soa() {
    let nxdomain = |ttl, minimum| {
        move |message: &mut Message| {
            message.metadata.response_code = ResponseCode::NXDomain;
            soa(message, ttl, minimum);
        }
    };
    assert_eq!(kept_for(nxdomain(9, 300)), 9);
    assert_eq!(kept_for(nxdomain(300, 9)), 9);
    assert_eq!(kept_for(|message| soa(message, 3, 4)), 3, "no data");
    assert_eq!(kept_for(|_| {}), 0, "without a SOA nothing is said of its time");
}

#[test]
fn errors_and_cut_answers_are_not_kept() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::FormErr] {
        let kept = kept_for(|message| {
            message.metadata.response_code = code;
            address(message, 7);
        });
        assert_eq!(kept, 0, "{code}");
    }
    let cut = kept_for(|message| {
        message.metadata.truncation = true;
        address(message, 7);
    });
    assert_eq!(cut, 0);
}

#[test]
fn the_asker_gets_its_own_id_spelling_and_the_time_that_is_left() {
    let mut cache = Cache::default();
    let start = Instant::now();
    let first = query(1, "a.example.com.");
    cache.put(&first, Transport::Udp, &answer(&first, |m| address(m, 20)), start);
    let second = query(2, "A.Example.COM.");
    let bytes = cache
        .get(&second, Transport::Udp, Accept::Fresh, after(8, start))
        .expect("the same but for its case");
    let message = Message::from_vec(&bytes).expect("decodes");
    assert_eq!(message.id, 2);
    assert_eq!(message.queries[0].name().to_ascii(), "A.Example.COM.");
    assert_eq!(message.answers[0].ttl, 12);
    assert!(!message.authoritative);
    assert!(message.edns.is_some(), "its flags are no TTL");
    let other = |query: &[u8], transport| cache.get(query, transport, Accept::Fresh, start);
    assert_eq!(other(&second, Transport::Tcp), None, "UDP's answers may be shorter");
    assert_eq!(other(&query(2, "b.example.com."), Transport::Udp), None);
}

#[test]
fn a_stale_answer_is_for_when_upstream_fails() {
    let mut cache = Cache::default();
    let start = Instant::now();
    let query = query(1, "a.example.com.");
    cache.put(&query, Transport::Udp, &answer(&query, |m| address(m, 5)), start);
    let get = |accept, seconds| cache.get(&query, Transport::Udp, accept, after(seconds, start));
    assert_eq!(get(Accept::Fresh, 5), None);
    let stale = Message::from_vec(&get(Accept::Stale, 5).expect("stale")).expect("decodes");
    assert_eq!(stale.answers[0].ttl, STALE_TTL);
    assert_eq!(get(Accept::Stale, STALE_MAX.as_secs() + 1), None);
}

#[test]
fn it_never_holds_more_than_its_bound() {
    let mut cache = Cache::default();
    let start = Instant::now();
    for n in 0..ENTRIES_MAX as u64 * 2 {
        let query = query(1, &format!("n{n}.example.com."));
        let now = start + Duration::from_millis(n);
        cache.put(&query, Transport::Udp, &answer(&query, |m| address(m, 30)), now);
        assert!(cache.len() <= ENTRIES_MAX);
    }
    assert!(cache.len() > ENTRIES_MAX / 4, "and it is of use all the same");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        query in prop::collection::vec(any::<u8>(), 0..80),
        answer in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut cache = Cache::default();
        let now = Instant::now();
        cache.put(&query, Transport::Udp, &answer, now);
        let _ = cache.get(&query, Transport::Udp, Accept::Stale, now);
    }

    #[test]
    fn a_damaged_answer_does_no_harm(at in 0..90_usize, with in any::<u8>()) {
        let query = query(1, "a.example.com.");
        let mut bytes = answer(&query, |message| {
            address(message, 7);
            soa(message, 7, 7);
        });
        let at = at % bytes.len();
        bytes[at] = with;
        let mut cache = Cache::default();
        let now = Instant::now();
        cache.put(&query, Transport::Udp, &bytes, now);
        if let Some(answer) = cache.get(&query, Transport::Udp, Accept::Fresh, now) {
            prop_assert_eq!(answer.len(), bytes.len());
        }
    }
}
