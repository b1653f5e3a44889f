//! The active task: which of the token's tasks this call works on. Tasks are names outside and dense ids inside.

use std::sync::Arc;

use thiserror::Error;

use super::caller::Caller;
use crate::base::ids::TaskId;

/// The tasks of `policy.tasks`, by name and by id. Ids are the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskNames {
    names: Vec<Arc<str>>,
    by_name: Vec<TaskId>,
}

impl TaskNames {
    /// Numbers the names in the order given. A name given twice keeps its first id.
    ///
    /// # Panics
    /// With more than 65,536 names; `limits::TASKS_MAX` is far below.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Self {
        let names: Vec<Arc<str>> = names.into_iter().map(Into::into).collect();
        let mut by_name: Vec<TaskId> = (0..names.len()).map(TaskId::from_index).collect();
        by_name.sort_by(|a, b| names[a.index()].cmp(&names[b.index()]));
        by_name.dedup_by(|later, first| names[later.index()] == names[first.index()]);
        Self { names, by_name }
    }

    /// The task of this name.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<TaskId> {
        let place = self.by_name.binary_search_by(|id| (*self.names[id.index()]).cmp(name)).ok()?;
        Some(self.by_name[place])
    }

    /// The name of a task of this policy; nothing for an id of another snapshot's.
    #[must_use]
    pub fn name(&self, id: TaskId) -> &str {
        self.names.get(id.index()).map_or("", |name| name)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// All, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (TaskId, &Arc<str>)> {
        self.names.iter().enumerate().map(|(index, name)| (TaskId::from_index(index), name))
    }
}

/// What a call works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ActiveTask {
    /// The token holds no task that the policy knows.
    #[default]
    None,
    /// This one.
    One(TaskId),
    /// One of several that the token holds, not told which: a permit with tasks does not apply, a forbid with one of
    /// them does.
    Several,
}

/// Why the task named cannot be the active one. All have the same answer; the difference is for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TaskFault {
    /// Header and `_meta` name different tasks.
    #[error("header and _meta name different tasks")]
    Disagree,
    /// Not a task of this token, known to the policy or not.
    #[error("not a task of this token")]
    NotHeld,
    /// For whoever reads the request: the `_meta` member is no string, or the header stands there twice.
    #[error("the task is not one piece of text")]
    Malformed,
}

/// The active task of a call, from the request header `Portcullis-Task` and `params._meta["portcullis/task"]`
/// (unescaped), each as given.
///
/// A name is compared with the tasks that the token holds, byte for byte, and with nothing else: so the answer to a
/// task of the policy that the caller does not hold is that to an invented one.
///
/// # Errors
/// [`TaskFault`] when a task is named that cannot be the active one.
pub fn active_task(
    caller: &Caller,
    header: Option<&[u8]>,
    meta: Option<&str>,
    names: &TaskNames,
) -> Result<ActiveTask, TaskFault> {
    let named = match (header, meta.map(str::as_bytes)) {
        (Some(header), Some(meta)) if header != meta => return Err(TaskFault::Disagree),
        (Some(named), _) | (None, Some(named)) => Some(named),
        (None, None) => None,
    };
    if let Some(named) = named {
        let held = caller.tasks.iter().find(|&&task| names.name(task).as_bytes() == named);
        return held.map(|&task| ActiveTask::One(task)).ok_or(TaskFault::NotHeld);
    }
    Ok(match caller.tasks.as_slice() {
        [] => ActiveTask::None,
        [one] => ActiveTask::One(*one),
        _ => ActiveTask::Several,
    })
}

#[cfg(test)]
mod tests {
    use smallvec::SmallVec;

    use super::*;

    fn check(held: &[u16], header: Option<&str>, meta: Option<&str>, want: Result<ActiveTask, TaskFault>) {
        let names = TaskNames::new(["triage", "refund", "audit"]);
        let tasks: SmallVec<[TaskId; 4]> = held.iter().map(|&task| TaskId(task)).collect();
        let caller = Caller { tasks, ..Caller::anonymous() };
        let got = active_task(&caller, header.map(str::as_bytes), meta, &names);
        assert_eq!(got, want, "held {held:?}, header {header:?}, meta {meta:?}");
    }

    #[test]
    fn the_active_task_is_held_and_unambiguous() {
        let one = |task| Ok(ActiveTask::One(TaskId(task)));
        check(&[], None, None, Ok(ActiveTask::None));
        check(&[1], None, None, one(1));
        check(&[0, 1], None, None, Ok(ActiveTask::Several));
        check(&[0, 1], Some("refund"), None, one(1));
        check(&[0, 1], None, Some("triage"), one(0));
        check(&[0, 1], Some("triage"), Some("triage"), one(0));
        check(&[1], Some("refund"), None, one(1));
        check(&[0, 1], Some("triage"), Some("refund"), Err(TaskFault::Disagree));
        check(&[0, 1], Some("audit"), None, Err(TaskFault::NotHeld));
        check(&[1], Some("triage"), None, Err(TaskFault::NotHeld));
        check(&[], Some("triage"), None, Err(TaskFault::NotHeld));
        check(&[0, 1], Some("Triage"), None, Err(TaskFault::NotHeld));
        check(&[0, 1], Some("triage "), None, Err(TaskFault::NotHeld));
        check(&[0, 1], Some(""), None, Err(TaskFault::NotHeld));
        check(&[0, 1], None, Some("no-such-task"), Err(TaskFault::NotHeld));
    }

    #[test]
    fn names_and_ids_agree() {
        let names = TaskNames::new(["b", "a", "b", "c"]);
        assert_eq!(names.id("b"), Some(TaskId(0)));
        assert_eq!(names.id("a"), Some(TaskId(1)));
        assert_eq!(names.id("c"), Some(TaskId(3)));
        assert_eq!(names.id(""), None);
        assert_eq!(names.name(TaskId(1)), "a");
        assert_eq!(names.name(TaskId(9)), "", "of another policy");
        assert_eq!((names.len(), names.is_empty(), TaskNames::default().is_empty()), (4, false, true));
    }
}
