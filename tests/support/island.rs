//! Two places with a wire between them that can be cut: a peer that vanishes says nothing, which no socket of one
//! machine can imitate. Made of network namespaces, so this machine's own network is not touched.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A place at one end of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Here,
    There,
}

impl Place {
    /// Its address on the wire.
    pub(crate) fn address(self) -> [u8; 4] {
        match self {
            Self::Here => [10, 213, 0, 1],
            Self::There => [10, 213, 0, 2],
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Here => Self::There,
            Self::There => Self::Here,
        }
    }

    fn ip(self) -> String {
        self.address().map(|byte| byte.to_string()).join(".")
    }

    fn mac(self) -> &'static str {
        match self {
            Self::Here => "02:00:00:00:00:01",
            Self::There => "02:00:00:00:00:02",
        }
    }
}

/// Both places and the wire; removed when dropped.
pub(crate) struct Island {
    names: [String; 2],
}

impl Island {
    /// None, said aloud, where namespaces cannot be made: it takes the rights of an administrator.
    pub(crate) fn new() -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let island =
            Self { names: ["here", "there"].map(|end| format!("portcullis-{}-{number}-{end}", std::process::id())) };
        let made = island.names.iter().try_for_each(|name| run(&["netns", "add", name]));
        if let Err(why) = made.and_then(|()| island.connect()) {
            // Not eprintln!: of a test that passes, the harness would keep it to itself.
            let _ = writeln!(std::io::stderr(), "SKIPPED: network namespaces cannot be made here: {why}");
            return None;
        }
        Some(island)
    }

    fn name(&self, place: Place) -> &str {
        &self.names[usize::from(place == Place::There)]
    }

    fn connect(&self) -> Result<(), String> {
        let [here, there] = &self.names;
        run(&["link", "add", "wire", "netns", here, "type", "veth", "peer", "name", "wire", "netns", there])?;
        for place in [Place::Here, Place::There] {
            let name = self.name(place);
            run(&["-n", name, "link", "set", "wire", "address", place.mac()])?;
            run(&["-n", name, "address", "add", &format!("{}/24", place.ip()), "dev", "wire"])?;
            run(&["-n", name, "link", "set", "lo", "up"])?;
            run(&["-n", name, "link", "set", "wire", "up"])?;
        }
        self.know_each_other()
    }

    /// Where a neighbour is, is known for good: nobody asks, so nobody learns from silence that the other is gone.
    fn know_each_other(&self) -> Result<(), String> {
        for place in [Place::Here, Place::There] {
            let other = place.other();
            let place = self.name(place);
            let to = ["lladdr", other.mac(), "dev", "wire", "nud", "permanent"];
            run(&[&["-n", place, "neigh", "replace", &other.ip()], &to[..]].concat())?;
        }
        Ok(())
    }

    /// Cuts the wire: what is sent is lost, and nobody is told.
    pub(crate) fn cut(&self, at: Place) {
        run(&["-n", self.name(at), "link", "set", "wire", "down"]).expect("a wire can be cut");
    }

    /// Mends it.
    pub(crate) fn mend(&self, at: Place) {
        run(&["-n", self.name(at), "link", "set", "wire", "up"]).expect("a wire can be mended");
        self.know_each_other().expect("what was known can be known again");
    }

    /// Does `work` there: its sockets, threads and processes live in that place.
    pub(crate) fn at<T: Send>(&self, place: Place, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name(place))).expect("the namespace has a name");
        let inside = || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).expect("who made it may go there");
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(inside).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = run(&["netns", "delete", name]);
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), String> {
    let ran = Command::new("ip").args(arguments).output().map_err(|fault| format!("ip: {fault}"))?;
    if ran.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&ran.stderr).trim()))
}
