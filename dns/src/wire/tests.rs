//! What is sent fits and decodes; what comes in never harms.

use hickory_proto::{
    op::Query,
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use proptest::prelude::*;

use super::*;

fn query(payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.id = 77;
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii("web.shop.svc.cluster.local.").expect("a name");
    message.add_query(Query::query(name, RecordType::A));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

fn reply(answers: usize, additionals: usize) -> Reply {
    let record = |n: usize| {
        let name = Name::from_ascii("web.shop.svc.cluster.local.").expect("a name");
        let address = std::net::Ipv4Addr::from(u32::try_from(n).expect("small"));
        Record::from_rdata(name, 5, RData::A(A(address)))
    };
    Reply {
        code: ResponseCode::NoError,
        answers: (0..answers).map(record).collect(),
        additionals: (0..additionals).map(record).collect(),
        authorities: vec![],
    }
}

fn sent(query: &Message, reply: Reply, transport: Transport) -> (usize, Message) {
    let bytes = encode(query, reply, transport);
    (bytes.len(), Message::from_vec(&bytes).expect("what is sent decodes"))
}

#[test]
fn an_answer_is_one_to_its_query() {
    let (_, answer) = sent(&query(Some(4096)), reply(2, 1), Transport::Udp);
    assert_eq!(answer.id, 77);
    assert!(answer.recursion_desired && answer.recursion_available && answer.authoritative);
    assert_eq!(answer.queries, query(None).queries);
    assert_eq!((answer.answers.len(), answer.additionals.len()), (2, 1));
    assert_eq!(answer.edns.expect("EDNS, as the query has it").max_payload(), UDP_MAX);
    let (_, answer) = sent(&query(None), reply(1, 0), Transport::Udp);
    assert!(answer.edns.is_none(), "no EDNS, as the query has none (RFC 6891, 7)");
}

#[test]
fn what_does_not_fit_over_udp_is_cut_and_said() {
    for (payload, limit) in
        [(None, 512), (Some(100), 512), (Some(900), 900), (Some(65535), UDP_MAX)]
    {
        let (length, answer) = sent(&query(payload), reply(200, 0), Transport::Udp);
        assert!(length <= usize::from(limit), "{length} bytes for {payload:?}");
        assert!(answer.truncation, "TC for {payload:?}");
        assert_eq!(answer.edns.is_some(), payload.is_some());
        assert_eq!(answer.queries.len(), 1);
    }
    let (_, answer) = sent(&query(None), reply(200, 0), Transport::Tcp);
    assert!(!answer.truncation && answer.answers.len() == 200, "TCP takes it whole");
}

#[test]
fn additional_records_go_first_and_without_tc() {
    let (length, answer) = sent(&query(Some(1232)), reply(10, 200), Transport::Udp);
    assert!(length <= 1232 && !answer.truncation);
    assert_eq!((answer.answers.len(), answer.additionals.len()), (10, 0));
}

fn error_of(bytes: &[u8]) -> ResponseCode {
    match decode(bytes) {
        Incoming::Error(answer) => Message::from_vec(&answer).expect("it decodes").response_code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_kind_of_bad_query_gets_its_code() {
    let mut notify = query(None);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(error_of(&notify.to_vec().expect("encodes")), ResponseCode::NotImp);
    let mut none = query(None);
    none.queries.clear();
    assert_eq!(error_of(&none.to_vec().expect("encodes")), ResponseCode::FormErr);
    let mut two = query(None);
    two.queries.push(two.queries[0].clone());
    assert_eq!(error_of(&two.to_vec().expect("encodes")), ResponseCode::FormErr);
    let mut new_edns = query(Some(1232));
    new_edns.edns.as_mut().expect("EDNS").set_version(1);
    // 16 is both BADVERS and, of signatures, BADSIG.
    assert_eq!(u16::from(error_of(&new_edns.to_vec().expect("encodes"))), 16);
    let mut cut = query(None).to_vec().expect("encodes");
    cut.truncate(20);
    assert_eq!(error_of(&cut), ResponseCode::FormErr);
}

#[test]
fn responses_and_scraps_are_not_answered() {
    let response = encode(&query(None), reply(1, 0), Transport::Udp);
    assert!(matches!(decode(&response), Incoming::Ignore));
    assert!(matches!(decode(&[0; HEADER - 1]), Incoming::Ignore));
    assert!(matches!(decode(&[]), Incoming::Ignore));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        match decode(&bytes) {
            Incoming::Query(message) => prop_assert_eq!(message.queries.len(), 1),
            Incoming::Error(answer) => prop_assert_eq!(&answer[..2], &bytes[..2]),
            Incoming::Ignore => {}
        }
    }

    #[test]
    fn a_damaged_query_is_answered_with_its_id_or_not_at_all(at in 0..44_usize, with in any::<u8>()) {
        let mut bytes = query(Some(1232)).to_vec().expect("encodes");
        bytes[at] = with;
        if let Incoming::Error(answer) = decode(&bytes) {
            prop_assert_eq!(&answer[..2], &bytes[..2]);
            prop_assert!(answer[2] & 0x80 != 0);
        }
    }
}
