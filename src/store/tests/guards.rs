use super::*;

/// Does `then` with the row "a", if its state is one of two.
fn guarded(then: IfPresent) -> Mutation {
    let guard = Guard { member: "state", values: &["running", "paused"], refusal: "it is over".to_owned() };
    Mutation { if_present: IfPresent::When(guard, Box::new(then)), ..update(schedules(), "a", value(0)) }
}

fn state(state: &str) -> Document {
    document(&format!(r#"{{"state":"{state}"}}"#))
}

#[test]
fn a_guard_lets_a_write_be_done_where_the_member_is_one_of_its_values() {
    let store = in_memory();
    for before in ["running", "paused"] {
        write(&store, vec![put(schedules(), "a", state(before))]);
        assert_eq!(write(&store, vec![guarded(IfPresent::Merge(state("done")))]), [Outcome::Updated]);
        assert_eq!(contents(&store, &schedules()), [("a".to_owned(), state("done"))]);
    }
    write(&store, vec![put(schedules(), "a", state("paused"))]);
    assert_eq!(write(&store, vec![guarded(IfPresent::Replace(value(1)))]), [Outcome::Updated]);
    assert_eq!(contents(&store, &schedules()), [("a".to_owned(), value(1))]);
    write(&store, vec![put(schedules(), "a", state("running"))]);
    assert_eq!(write(&store, vec![guarded(IfPresent::Delete)]), [Outcome::Deleted]);
}

#[test]
fn a_guard_refuses_with_its_text_and_nothing_is_written() {
    let store = in_memory();
    for current in [state("done"), state(""), document(r#"{"state":["running"]}"#), document("{}")] {
        write(&store, vec![put(schedules(), "a", current.clone())]);
        let before = store.position();
        for then in [IfPresent::Delete, IfPresent::Merge(value(1)), IfPresent::Refuse("never said".to_owned())] {
            let unit = vec![put(policies(), "beside", value(1)), guarded(then)];
            assert_eq!(commit(&store, &[unit]).results, [Err("it is over".to_owned())]);
        }
        assert_eq!(store.position(), before);
        assert_eq!(contents(&store, &schedules()), [("a".to_owned(), current)]);
        assert!(contents(&store, &policies()).is_empty());
    }
}

#[test]
fn a_guard_sees_what_was_written_before_in_the_same_unit() {
    let store = in_memory();
    write(&store, vec![put(schedules(), "a", state("running"))]);
    let finish = || guarded(IfPresent::Merge(state("done")));
    let results = commit(&store, &[vec![finish(), finish()], vec![finish()], vec![finish()]]).results;
    let refused = || Err("it is over".to_owned());
    assert_eq!(results, [refused(), Ok(vec![Outcome::Updated]), refused()]);
}

#[test]
fn a_guard_has_no_say_where_there_is_no_row_and_what_it_lets_pass_may_refuse() {
    let store = in_memory();
    assert_eq!(commit(&store, &[vec![guarded(IfPresent::Delete)]]).results, [Err("a is missing".to_owned())]);
    write(&store, vec![put(schedules(), "a", state("running"))]);
    let inner = guarded(IfPresent::Refuse("not now".to_owned()));
    assert_eq!(commit(&store, &[vec![inner]]).results, [Err("not now".to_owned())]);
}

#[test]
fn a_guarded_write_counts_with_the_bytes_of_its_document() {
    let document = value(123_456);
    let plain = IfPresent::Merge(document.clone());
    let mutation = guarded(plain);
    assert_eq!(mutation.row_size(), document.as_bytes().len());
    assert!(mutation.size() > document.as_bytes().len());
}
