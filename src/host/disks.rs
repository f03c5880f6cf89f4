//! How full the disks are. A disk that is broken may never answer, so they are asked on a thread of their own.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use sysinfo::{DiskRefreshKind, Disks};

use crate::{proto, task};

/// So many are told of.
const DISKS_MAX: usize = 64;

type Measured = Vec<proto::ResourceFrameDisk>;

/// What the disks last said.
#[derive(Debug)]
pub(super) struct DiskWatch {
    newest: Arc<Mutex<Measured>>,
    /// Asks for the next figures. The thread ends with it, unless it hangs; so nobody waits for its end.
    ask: SyncSender<()>,
}

impl DiskWatch {
    pub(super) fn of_this_machine() -> Self {
        let mut disks = Disks::new();
        Self::start(move || measure(&mut disks))
    }

    fn start(mut measure: impl FnMut() -> Measured + Send + 'static) -> Self {
        let newest = Arc::<Mutex<Measured>>::default();
        let (ask, asked) = sync_channel(1);
        let told = Arc::clone(&newest);
        task::spawn_thread("starfeed-disks", move || {
            while asked.recv().is_ok() {
                let measured = measure();
                *told.lock().unwrap_or_else(PoisonError::into_inner) = measured;
            }
        });
        let watch = Self { newest, ask };
        watch.ask();
        watch
    }

    /// What they last said, without waiting for them; and has them asked again.
    pub(super) fn newest(&self) -> Measured {
        self.ask();
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ask(&self) {
        // Refused while a question waits already, which is as good.
        let _ = self.ask.try_send(());
    }
}

fn measure(disks: &mut Disks) -> Measured {
    // Only which there are: sizes are read below, where files and network mounts are left out.
    disks.refresh_specifics(true, DiskRefreshKind::nothing());
    let mounts = disks.iter().map(|disk| Mount {
        device: disk.name(),
        path: disk.mount_point(),
        file_system: disk.file_system(),
    });
    each_device_once(mounts.collect(), size)
}

#[derive(Clone, Copy)]
struct Mount<'a> {
    device: &'a OsStr,
    path: &'a Path,
    file_system: &'a OsStr,
}

impl Mount<'_> {
    /// Whether it is a disk of this machine. What everything else stands on is taken for one.
    fn is_real(&self) -> bool {
        const REMOTE: [&str; 14] = [
            "9p",
            "afs",
            "beegfs",
            "ceph",
            "cifs",
            "fuse",
            "glusterfs",
            "lustre",
            "nfs",
            "nfs4",
            "orangefs",
            "smb3",
            "smbfs",
            "virtiofs",
        ];
        let name = self.file_system.to_string_lossy();
        let is_remote = REMOTE.contains(&&*name) || name.starts_with("fuse.");
        !is_remote || self.path == Path::new("/")
    }
}

/// A device may be mounted in several places; the shortest path stands for it, and of two mounts at one place the later.
fn each_device_once(mut mounts: Vec<Mount<'_>>, size: impl Fn(&Path) -> Option<proto::ResourceFrameDisk>) -> Measured {
    mounts.reverse();
    mounts.sort_by_key(|mount| mount.path.as_os_str().len());
    let (mut devices, mut paths) = (HashSet::new(), HashSet::new());
    let mut measured = Vec::new();
    for mount in mounts.into_iter().filter(Mount::is_real) {
        if measured.len() == DISKS_MAX {
            break;
        }
        if devices.contains(mount.device) || !paths.insert(mount.path) {
            continue;
        }
        if let Some(disk) = size(mount.path) {
            devices.insert(mount.device);
            measured.push(disk);
        }
    }
    measured.sort_by(|a, b| a.mount.cmp(&b.mount));
    measured
}

fn size(path: &Path) -> Option<proto::ResourceFrameDisk> {
    // In containers, files of the host are mounted over some of their own.
    let is_directory = std::fs::metadata(path).ok()?.is_dir();
    let stat = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| count(blocks.saturating_mul(stat.f_frsize));
    let (used, total) = (bytes(stat.f_blocks.saturating_sub(stat.f_bfree)), bytes(stat.f_blocks));
    let mount = path.to_string_lossy().into_owned();
    (is_directory && total > 0).then_some(proto::ResourceFrameDisk {
        mount: Some(mount),
        used: Some(used),
        total: Some(total),
    })
}

/// A number of bytes, as far as a message can have it.
pub(super) fn count(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn disk(mount: &str, used: i64) -> proto::ResourceFrameDisk {
        proto::ResourceFrameDisk { mount: Some(mount.to_owned()), used: Some(used), total: Some(10) }
    }

    fn chosen(mounts: &[(&str, &str, &str)]) -> Vec<String> {
        let mounts = mounts.iter().map(|(device, path, file_system)| Mount {
            device: OsStr::new(device),
            path: Path::new(path),
            file_system: OsStr::new(file_system),
        });
        let is_file = |path: &Path| path.starts_with("/etc");
        let size = |path: &Path| (!is_file(path)).then(|| disk(path.to_str().expect("text"), 1));
        each_device_once(mounts.collect(), size).iter().map(|disk| disk.mount().to_owned()).collect()
    }

    #[test]
    fn each_device_is_told_of_once() {
        let mounts = [
            ("/dev/sda2", "/home", "btrfs"),
            ("/dev/sda2", "/", "btrfs"),
            ("/dev/sda1", "/boot", "vfat"),
            ("/dev/sda2", "/srv", "btrfs"),
        ];
        assert_eq!(chosen(&mounts), ["/", "/boot"]);
        let container = [
            ("overlay", "/", "overlay"),
            ("/dev/vda1", "/etc/hosts", "ext4"),
            ("/dev/vda1", "/var/lib/starfeed", "ext4"),
        ];
        assert_eq!(chosen(&container), ["/", "/var/lib/starfeed"]);
    }

    #[test]
    fn a_mount_that_is_covered_by_another_is_left_out() {
        assert_eq!(chosen(&[("/dev/sda1", "/data", "ext4"), ("/dev/sdb1", "/data", "ext4")]), ["/data"]);
    }

    #[test]
    fn what_is_on_another_machine_is_no_disk() {
        let mounts = [
            ("server:/home", "/home", "nfs4"),
            ("me@server:", "/mnt", "fuse.sshfs"),
            ("/dev/sdc1", "/media", "fuseblk"),
            ("rootfs", "/", "virtiofs"),
        ];
        assert_eq!(chosen(&mounts), ["/", "/media"]);
    }

    #[test]
    fn only_so_many_are_told_of() {
        let paths: Vec<String> = (0..DISKS_MAX + 1).map(|number| format!("/disk{number}")).collect();
        let mounts: Vec<_> = paths.iter().map(|path| (path.as_str(), path.as_str(), "ext4")).collect();
        assert_eq!(chosen(&mounts).len(), DISKS_MAX);
    }

    #[test]
    fn the_disks_of_this_machine_hold_no_more_than_they_can() {
        let disks = measure(&mut Disks::new());
        assert!(disks.iter().all(|disk| disk.total() > 0 && (0..=disk.total()).contains(&disk.used())), "{disks:?}");
        let root = size(Path::new("/")).expect("there is a root");
        assert!(root.used() > 0 && root.mount() == "/", "{root:?}");
        assert_eq!(size(Path::new("/proc/self/status")), None);
    }

    #[test]
    fn a_disk_that_does_not_answer_stops_nobody() {
        let (answer, answers) = channel();
        let (begin, begun) = channel();
        let watch = DiskWatch::start(move || {
            // The test may be over.
            let _ = begin.send(());
            answers.recv().unwrap_or_default()
        });
        begun.recv().expect("the disks are asked");
        // It hangs now, and is asked again and again.
        for _ in 0..10 {
            assert_eq!(watch.newest(), []);
        }
        answer.send(vec![disk("/", 1)]).expect("the disks are asked");
        begun.recv().expect("the disks are asked again");
        assert_eq!(watch.newest(), [disk("/", 1)]);
        answer.send(vec![disk("/", 2)]).expect("the disks are asked");
        begun.recv().expect("what waited was one question");
        assert_eq!(watch.newest(), [disk("/", 2)]);
    }
}
