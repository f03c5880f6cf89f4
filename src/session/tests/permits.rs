//! Who may subscribe, and who makes room for others.

use super::*;

#[test]
fn whoever_ends_a_subscription_makes_room_for_another() {
    let store = store();
    let (context, _feeds) = context(&store);
    let waiting = Waiting::new(1 << 30);
    let [mut one, mut other] = [(); 2].map(|()| connect(&context, &waiting));
    let ask = |session: &mut Session, command: Command| {
        ask(session, 1, 10, command);
        run(session, &store).remove(0)
    };
    for _ in 0..6 {
        assert_eq!(ask(&mut one, subscribe()), "1 ok");
    }
    for _ in 0..4 {
        assert_eq!(ask(&mut other, subscribe()), "1 ok");
    }
    let refused = "1 limit_exceeded: the server has 10 subscriptions, more are not allowed; try again later";
    assert_eq!(ask(&mut other, subscribe()), refused);
    let unsubscribe = || Command::Unsubscribe(proto::RequestUnsubscribe { subscription_id: 3 });
    assert_eq!(ask(&mut one, unsubscribe()), "1 ok");
    assert_ne!(ask(&mut one, unsubscribe()), "1 ok", "it has ended");
    assert_eq!(ask(&mut other, subscribe()), "1 ok");
    assert_eq!(ask(&mut other, subscribe()), refused);
    drop(one);
    assert_eq!(context.subscriptions.count(), 5);
    drop(other);
    assert_eq!(context.subscriptions.count(), 0);
}
