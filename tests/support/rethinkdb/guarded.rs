//! Something that must not outlive the tests, however they end.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Ends it when the shell's input does: that is when whoever tests says so, or is no more.
const GUARD: &str = r#"
trap '' INT TERM HUP
log=$1 directory=$2 container=$3
shift 3
"$@" >"$log" 2>&1 </dev/null &
child=$!
echo $child
read -r word
[ -z "$container" ] || docker rm -f -v "$container" >/dev/null 2>&1
kill -9 $child 2>/dev/null
wait $child 2>/dev/null
[ "$word" = keep ] || rm -rf -- "$directory"
"#;

/// A process with a shell beside it that ends it.
pub(crate) struct Guarded {
    shell: Child,
    input: Option<ChildStdin>,
    /// Of the process itself.
    pub(crate) pid: u32,
}

impl Guarded {
    /// Starts `command`, which writes to `log`, and may run a container of this name. `directory` is removed in the end, unless that is
    /// [`Guarded::kill`].
    pub(crate) fn start(command: &[String], log: &Path, directory: &Path, container: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", GUARD, "guard"]).args([log, directory]).arg(container).args(command);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("its process");
        let pid = line.trim().parse().expect("a number");
        Self { input: shell.stdin.take(), shell, pid }
    }

    /// Ends it at once, and keeps what it has on disk.
    pub(crate) fn kill(mut self) {
        let mut input = self.input.take().expect("it is taken once");
        input.write_all(b"keep\n").expect("the shell reads");
        drop(input);
        self.shell.wait().expect("it is our child");
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // The end of its input.
        self.input.take();
        let _ = self.shell.wait();
    }
}
