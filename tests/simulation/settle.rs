//! When the faults stop.

use super::world::{TURNS_MAX, World};

impl World {
    /// Faults and writes stop, and everyone reads until nothing comes: then every client holds what is there.
    pub(super) fn calm_down(&mut self) {
        self.count("a calm");
        self.disk.heal();
        self.free_disk();
        // Changes that a fault left unpublished come with the next commit.
        assert!((0..TURNS_MAX).any(|_| self.commit(&[]).is_ok()), "the store never works again");
        self.publish();
        self.settle_source();
        self.drain();
        // What goes out at intervals goes out now.
        self.tick_ms += 10_000;
        for client in &mut self.clients {
            client.tick(self.tick_ms);
        }
        self.drain();
        for client in &self.clients {
            client.check_converged(self.truth());
        }
        let live: usize = self.server.feeds.figures().iter().map(|figures| figures.live).sum();
        let followers: usize = self.clients.iter().map(super::client::Client::followers).sum();
        assert_eq!(live, followers, "who is level is live");
    }

    /// Everyone goes on for as long as there is anything to do.
    fn drain(&mut self) {
        for _ in 0..TURNS_MAX {
            self.tell_new_feeds();
            let mut is_busy = false;
            for mut client in std::mem::take(&mut self.clients) {
                is_busy |= client.go_on(self.truth());
                while let Some((ticket, unit)) = client.writes.pop_front() {
                    let result = self.commit(&[unit]).map(|mut results| results.remove(0));
                    self.publish();
                    client.written(ticket, result);
                    is_busy = true;
                }
                self.clients.push(client);
            }
            if !is_busy {
                return;
            }
        }
        panic!("there is always something more to do");
    }

    /// In the end nothing leaks.
    pub(super) fn settle(&mut self) {
        self.calm_down();
        for client in std::mem::take(&mut self.clients) {
            self.leave(client);
        }
        self.count_fell_behind();
        assert_eq!(self.server.waiting.bytes(), 0, "what waited for nobody is still counted");
        assert_eq!(self.server.context.subscriptions.count(), 0, "subscriptions are left");
        let figures = self.server.feeds.figures();
        assert!(figures.iter().all(|feed| (feed.live, feed.filters) == (0, 0)), "somebody is left: {figures:?}");
    }
}
