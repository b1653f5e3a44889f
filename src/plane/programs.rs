//! Servers that are programs: what the operator wrote, as what a child is begun with.

use std::ffi::OsString;
use std::sync::Arc;

use crate::config::{CommandSettings, ServerSettings, Sharing};
use crate::stdio::host::Host;
use crate::stdio::process::Launch;
use crate::upstream::state::ServerState;

/// Finds the way to a server that is a program; nothing is begun before it is needed.
///
/// # Errors
/// What is wrong with the settings here and now, in words.
pub(super) fn open(host: &Host, server: &ServerSettings, state: &ServerState) -> Result<(), String> {
    // One that was carried along from settings before has its children, and goes on with them.
    let Some(command) = server.command().filter(|_| state.way().is_none()) else { return Ok(()) };
    let launch = launch(command)?;
    let door = host.open(server.name.clone(), launch, command.sharing == Sharing::Shared);
    let door = Arc::new(door.map_err(|error| format!("no program can be run: {error}"))?);
    state.instances.iter().for_each(|instance| instance.is_at(door.clone()));
    Ok(())
}

fn launch(command: &CommandSettings) -> Result<Launch, String> {
    // Nothing of the gateway's own environment but what is named.
    let inherited = command.inherit.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    let written = command.env.iter().map(|(name, value)| (name.into(), value.into()));
    let user = match &command.user {
        None => None,
        Some(user) => {
            let known = std::fs::read_to_string(PASSWD).map_err(|error| format!("{PASSWD}: {error}"))?;
            Some(ids(&known, user).ok_or_else(|| format!("this system knows no user {user:?}"))?)
        }
    };
    Ok(Launch {
        program: command.program.clone(),
        args: command.args.clone(),
        cwd: command.cwd.clone(),
        env: inherited.chain(written).collect(),
        user,
    })
}

/// User and group of a name, or of a number, which need not be listed: then it is the group's too.
fn ids(known: &str, user: &str) -> Option<(u32, u32)> {
    let number = user.parse::<u32>().ok();
    let row = |line: &str| {
        let mut fields = line.split(':');
        let (name, _, id, group) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let (id, group) = (id.parse().ok()?, group.parse().ok()?);
        (name == user || number == Some(id)).then_some((id, group))
    };
    known.lines().find_map(row).or(number.map(|number| (number, number)))
}

/// passwd(5). Users of a directory service go by their numbers.
const PASSWD: &str = "/etc/passwd";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_go_by_name_or_number() {
        let known = "root:x:0:0:root:/root:/bin/sh\n\nbad:x:one:1\nmcp:x:999:998::/:/usr/sbin/nologin\n";
        for (user, want) in [
            ("root", Some((0, 0))),
            ("mcp", Some((999, 998))),
            ("999", Some((999, 998))),
            ("1234", Some((1234, 1234))),
            ("bad", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(ids(known, user), want, "{user}");
        }
    }

    #[test]
    fn only_what_is_named_is_inherited() {
        let command = CommandSettings {
            program: "p".into(),
            args: vec!["a".into()],
            cwd: None,
            env: vec![("ONE".into(), "1".into())],
            inherit: vec!["PATH".into(), "NOT_THERE_AT_ALL".into()],
            user: None,
            sharing: Sharing::Session,
        };
        let launch = launch(&command).expect("nothing is wrong with it");
        let names: Vec<_> = launch.env.iter().map(|(name, _)| name.to_string_lossy()).collect();
        assert_eq!(names, ["PATH", "ONE"]);
    }
}
