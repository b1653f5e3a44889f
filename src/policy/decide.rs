//! The decision: (table, caller, active task, call) -> `Permit` or `Denied`. No allocation for tools and prompts, and
//! no step that repeats per rule.

use std::net::IpAddr;

use super::approval::Granted;
use super::classes::View;
use super::cond::{Facts, Truth};
use super::counter::Taken;
use super::keys::Payer;
use super::needs::{Need, NeedOf, Needs, Note, Past};
pub use super::remarks::{Asking, Remarks, Shadow, UnknownAt, Why};
use super::rule::Effect;
use super::table::{Maybe, Named, Reaches, Says, Table, merge};
use super::uri::Target;
use super::weigh::{About, Case, Takes, rate_need};
use crate::base::ids::{ItemId, RuleId, ServerId};
use crate::identity::active::ActiveTask;
use crate::identity::caller::{Caller, Owner};
use crate::mcp::call::{Call, Object};
use crate::mcp::catalog::{Item, ListKind};
use crate::mcp::input::Ask;

/// The leave to send this one call to this one server.
///
/// Only this file can make one, since nobody else can name its fields:
///
/// ```compile_fail,E0451
/// use portcullis::policy::decide::{Permit, Rules};
/// fn forge(
///     owner: portcullis::identity::caller::Owner,
///     call: portcullis::mcp::call::Call,
///     server: portcullis::base::ids::ServerId,
/// ) -> Permit {
///     Permit { owner, call: Box::new(call), server, item: None, rules: Rules::new(), more: None }
/// }
/// ```
///
/// It can be neither copied nor taken apart, so one leave is one call:
///
/// ```compile_fail,E0599
/// fn twice(permit: &portcullis::policy::decide::Permit) -> portcullis::policy::decide::Permit {
///     permit.clone()
/// }
/// ```
///
/// ```compile_fail,E0616
/// fn empty(permit: portcullis::policy::decide::Permit) -> Box<portcullis::mcp::call::Call> {
///     permit.call
/// }
/// ```
#[derive(Debug)]
pub struct Permit {
    owner: Owner,
    call: Box<Call>,
    server: ServerId,
    item: Option<ItemId>,
    rules: Rules,
    /// `None` for most.
    more: Option<Box<More>>,
}

/// What comes with some permits.
#[derive(Debug)]
struct More {
    notes: Vec<Note>,
    remarks: Remarks,
    taken: Taken,
    approval: Option<Granted>,
}

/// What a permit was given for beside the rules, and what is owed to others when its call has ended.
#[derive(Debug)]
pub struct Stakes {
    /// What was reserved.
    pub taken: Taken,
    /// What is to be remembered when it succeeds.
    pub notes: Vec<Note>,
    /// Who said yes.
    pub approval: Option<Granted>,
}

/// What a call looks like from outside of its arguments: when, from where, after what.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// What the call was read from.
    pub body: &'a [u8],
    /// The wall clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// The session that it came in.
    pub session: Option<[u8; 16]>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The path of the endpoint.
    pub endpoint: &'a str,
    /// The JSON-RPC method.
    pub method: &'a str,
    /// What happened before.
    pub past: &'a dyn Past,
}

/// What a call that policy lets go still needs.
#[derive(Debug)]
pub enum Leave {
    /// Nothing.
    Go(Permit),
    /// Room in counts, or somebody's yes.
    Held(Box<Held>),
}

/// A call that may go once all it needs is there.
///
/// It is no permit, and gives none away:
///
/// ```compile_fail,E0616
/// fn hurry(held: portcullis::policy::decide::Held) -> portcullis::policy::decide::Permit {
///     held.permit
/// }
/// ```
///
/// Nor is there one without what was taken for it:
///
/// ```compile_fail,E0061
/// fn hurry(held: portcullis::policy::decide::Held) -> bool {
///     held.granted().is_ok()
/// }
/// ```
///
/// ```compile_fail,E0308
/// use portcullis::policy::{counter::Taken, decide::Held};
/// fn hurry(held: Held, taken: Taken) -> bool {
///     held.granted(taken, Some(())).is_ok()
/// }
/// ```
#[derive(Debug)]
pub struct Held {
    permit: Permit,
    needs: Needs,
    asking: Option<Asking>,
}

impl Held {
    /// What must be reserved, all or none.
    #[must_use]
    pub fn needs(&self) -> &[Need] {
        &self.needs
    }

    /// Who must say yes.
    #[must_use]
    pub fn asking(&self) -> Option<&Asking> {
        self.asking.as_ref()
    }

    /// The call.
    #[must_use]
    pub fn call(&self) -> &Call {
        &self.permit.call
    }

    /// The tool that it calls, or the prompt that it gets.
    #[must_use]
    pub fn item(&self) -> Option<ItemId> {
        self.permit.item
    }

    /// The rules that let it go, or would.
    #[must_use]
    pub fn rules(&self) -> &[RuleId] {
        &self.permit.rules
    }

    /// What was noticed beside the answer.
    #[must_use]
    pub fn remarks(&self) -> &Remarks {
        self.permit.remarks()
    }

    /// The permit, for what was taken for it.
    ///
    /// # Errors
    /// Itself, when `taken` is for something else than [`Self::needs`], or nobody said yes where somebody must.
    pub fn granted(mut self: Box<Self>, taken: Taken, approval: Option<Granted>) -> Result<Permit, Box<Self>> {
        if !taken.covers(&self.needs) || self.asking.is_some() != approval.is_some() {
            return Err(self);
        }
        let more = self.permit.more();
        more.taken = taken;
        more.approval = approval;
        Ok(self.permit)
    }

    /// A refusal after all.
    #[must_use]
    pub fn into_denied(self, why: Why) -> Denied {
        let Permit { call, item, rules, more, .. } = self.permit;
        Denied { call, item, why, rules, remarks: more.map(|more| more.remarks).unwrap_or_default() }
    }
}

/// The rules behind an answer, first ones first, in the order of the file; at most `limits::RULES_NAMED_MAX`.
pub type Rules = Named;

/// A call that must not be sent.
#[derive(Debug)]
pub struct Denied {
    /// The call, for whoever answers it.
    pub call: Box<Call>,
    /// The tool or prompt that it is about, where the catalogue has it.
    pub item: Option<ItemId>,
    /// What the caller is told.
    pub why: Why,
    /// The rules behind it; none where the refusal is silence, or nothing of that name exists.
    pub rules: Rules,
    /// What was noticed beside the answer.
    pub remarks: Remarks,
}

impl Denied {
    #[cold]
    fn hidden(call: Box<Call>) -> Box<Self> {
        Box::new(Self { call, item: None, why: Why::Hidden, rules: Rules::new(), remarks: Remarks::default() })
    }
}

/// What is asked, by upstream names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// May this tool be called?
    CallTool(&'a str),
    /// May this prompt be got?
    GetPrompt(&'a str),
    /// May the resource at this URI be read, and so subscribed to?
    Read(&'a str),
    /// May arguments of this prompt be completed?
    CompletePrompt(&'a str),
    /// May variables of this URI template be completed?
    CompleteTemplate(&'a str),
    /// May the server ask this of the client?
    Ask(Ask),
    /// Is the entry of this name, URI or template shown on the list?
    List(ListKind, &'a str),
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Yes, or why not. Lists and completions know no `Forbidden`.
    pub outcome: Result<(), Why>,
    /// The permits, or the forbids, behind it.
    pub rules: Rules,
    /// What a yes still needs.
    pub needs: Needs,
    /// Who must say yes, too.
    pub asking: Option<Asking>,
    /// What is to be remembered when it succeeds.
    pub notes: Vec<Note>,
    /// What was noticed beside the answer.
    pub remarks: Remarks,
}

impl Permit {
    /// The call it is for. Of `subscriptions/listen` only the resources that may be read and the caller's own tasks are
    /// left.
    #[must_use]
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// Where it may go.
    #[must_use]
    pub fn server(&self) -> ServerId {
        self.server
    }

    /// The tool that it calls, or the prompt that it gets.
    #[must_use]
    pub fn item(&self) -> Option<ItemId> {
        self.item
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The permits that let it go; none where no rule is needed.
    #[must_use]
    pub fn rules(&self) -> &[RuleId] {
        &self.rules
    }

    /// What is to be remembered of it when it succeeds.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        self.more.as_ref().map_or(&[], |more| &more.notes)
    }

    /// What was noticed beside the answer.
    #[must_use]
    pub fn remarks(&self) -> &Remarks {
        self.more.as_ref().map_or(Remarks::NONE, |more| &more.remarks)
    }

    /// Whether its call has nothing at stake: nothing was reserved for it, nothing is remembered of it, nobody said yes.
    #[must_use]
    pub fn has_no_stakes(&self) -> bool {
        let none = |more: &More| more.notes.is_empty() && more.taken.covers(&[]) && more.approval.is_none();
        self.more.as_deref().is_none_or(none)
    }

    /// What was reserved for it, what is to be remembered of it, and who said yes: for whoever sees its call to the end.
    pub fn take_stakes(&mut self) -> Stakes {
        let More { taken, notes, approval, .. } = self.more();
        let taken = std::mem::replace(taken, Taken::none());
        Stakes { taken, notes: std::mem::take(notes), approval: approval.take() }
    }

    /// The call again, and no permit any more.
    #[must_use]
    pub fn into_call(self) -> Box<Call> {
        self.call
    }

    /// A permit that needs nothing.
    fn plain(owner: Owner, call: Box<Call>, server: ServerId, item: Option<ItemId>, rules: Rules) -> Self {
        Self { owner, call, server, item, rules, more: None }
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_with(|| Box::new(More::new(Vec::new(), Remarks::default())))
    }
}

impl More {
    fn new(notes: Vec<Note>, remarks: Remarks) -> Self {
        Self { notes, remarks, taken: Taken::none(), approval: None }
    }
}

/// Decides on a call to `server`. `name` is its target by its upstream name: the tool, prompt, URI or template as
/// unescaped from the body, without an endpoint's prefix. It is not looked at where the call has no target.
///
/// # Errors
/// [`Denied`], which hands the call back. A listen stream with resources or tasks goes through [`decide_listen`]; here
/// it is denied. So is a call about an MCP task that nobody has found to be the caller's; one that was needs no rule.
pub fn decide(
    table: &Table,
    caller: &Caller,
    task: ActiveTask,
    server: ServerId,
    call: impl Into<Box<Call>>,
    name: &str,
    scene: &Scene<'_>,
) -> Result<Leave, Box<Denied>> {
    decided(table, caller, task, server, call.into(), name, scene)
}

fn decided(
    table: &Table,
    caller: &Caller,
    task: ActiveTask,
    server: ServerId,
    call: Box<Call>,
    name: &str,
    scene: &Scene<'_>,
) -> Result<Leave, Box<Denied>> {
    let question = match &call.subject {
        Object::Tool(_) => Question::CallTool(name),
        Object::Prompt(_) => Question::GetPrompt(name),
        Object::Resource(_) => Question::Read(name),
        Object::CompletePrompt(_) => Question::CompletePrompt(name),
        Object::CompleteResource(_) => Question::CompleteTemplate(name),
        Object::Listen(listen) if !listen.uris.is_empty() || !listen.tasks.is_empty() => {
            return Err(Denied::hidden(call));
        }
        Object::Task(task) if task.opened.is_none() => return Err(Denied::hidden(call)),
        Object::None | Object::Listen(_) | Object::Task(_) => {
            return Ok(Leave::Go(Permit::plain(caller.owner, call, server, None, Rules::new())));
        }
    };
    let asker = Asker { table, caller, task, server, scene: Some(scene) };
    // What is looked up is looked up once: the decision and the figures go by the number.
    let (item, verdict) = match question {
        Question::CallTool(name) | Question::GetPrompt(name) => {
            let item = table.names.item(server, question.kind(), name);
            if let Some(number) = item
                && let Some(rules) = asker.freely(number)
            {
                let item = Some(ItemId::from_index(number));
                return Ok(Leave::Go(Permit::plain(caller.owner, call, server, item, rules)));
            }
            let arguments = call.arguments.map(|span| span.of(scene.body));
            (item, asker.numbered(item, (question.letter(), name), arguments, Follows::Call(Takes::All)))
        }
        _ => (None, asker.judge(question, None, Takes::All)),
    };
    let item = item.map(ItemId::from_index);
    let Verdict { outcome, rules, needs, asking, notes, remarks } = verdict;
    if let Err(why) = outcome {
        return Err(Box::new(Denied { call, item, why, rules, remarks }));
    }
    let more = (!notes.is_empty() || !remarks.is_empty()).then(|| Box::new(More::new(notes, remarks)));
    let permit = Permit { more, ..Permit::plain(caller.owner, call, server, item, rules) };
    if needs.is_empty() && asking.is_none() {
        return Ok(Leave::Go(permit));
    }
    Ok(Leave::Held(Box::new(Held { permit, needs, asking })))
}

/// Decides on a `subscriptions/listen` for `server`: subscribing follows reading. The permit's call keeps the resources
/// that may be read there and the tasks that were found to be the caller's, and loses the others as if they did not
/// exist. Limits are not taken, since they count calls; but what must have come before must have come.
///
/// # Errors
/// [`Denied`] for any other call: those are for [`decide`].
pub fn decide_listen(
    table: &Table,
    caller: &Caller,
    task: ActiveTask,
    server: ServerId,
    call: impl Into<Box<Call>>,
    scene: &Scene<'_>,
) -> Result<Permit, Box<Denied>> {
    let mut call = call.into();
    let mut rules = Rules::new();
    let Object::Listen(listen) = &mut call.subject else {
        return Err(Denied::hidden(call));
    };
    listen.uris.retain(|uri| {
        let asker = Asker { table, caller, task, server, scene: Some(scene) };
        let (verdict, is_free) = asker.subscribes(uri.of(scene.body), scene);
        if is_free {
            merge(&mut rules, &verdict.rules);
        }
        is_free
    });
    listen.tasks.retain(|task| task.opened.is_some());
    Ok(Permit::plain(caller.owner, call, server, None, rules))
}

/// Resources, each with its server and by that server's name.
pub type Whose = Vec<(ServerId, Box<str>)>;

/// The same at an endpoint of several servers: `whose` says whose a resource is and what that server calls it. Gives the
/// resources that are left with both, in the order of the call's. The permit is for the servers that these and the tasks
/// are at; where it names one, it is `server`.
///
/// # Errors
/// As [`decide_listen`].
pub fn decide_listen_at(
    table: &Table,
    caller: &Caller,
    task: ActiveTask,
    server: ServerId,
    mut call: Box<Call>,
    scene: &Scene<'_>,
    mut whose: impl FnMut(&str) -> Option<(ServerId, Box<str>)>,
) -> Result<(Permit, Whose), Box<Denied>> {
    let (mut rules, mut found) = (Rules::new(), Whose::new());
    let Object::Listen(listen) = &mut call.subject else {
        return Err(Denied::hidden(call));
    };
    listen.uris.retain(|uri| {
        let Some((server, own)) = whose(uri.of(scene.body)) else { return false };
        let asker = Asker { table, caller, task, server, scene: Some(scene) };
        let (verdict, is_free) = asker.subscribes(&own, scene);
        if is_free {
            merge(&mut rules, &verdict.rules);
            found.push((server, own));
        }
        is_free
    });
    listen.tasks.retain(|task| task.opened.is_some());
    Ok((Permit::plain(caller.owner, call, server, None, rules), found))
}

/// Whether an entry of `server`'s list is shown. Tools and prompts go by the id their catalogue gave them: the
/// catalogue that `table` was compiled against.
#[must_use]
pub fn listed(table: &Table, caller: &Caller, task: ActiveTask, server: ServerId, kind: ListKind, item: &Item) -> bool {
    let asker = Asker { table, caller, task, server, scene: None };
    match kind {
        ListKind::Tools | ListKind::Prompts => {
            let number = table.names.check(item.id, server, kind);
            let target = (Question::List(kind, "").letter(), &*item.name);
            number.is_some_and(|number| asker.is_shown(number, target))
        }
        ListKind::Resources | ListKind::Templates => {
            asker.judge(Question::List(kind, &item.name), None, Takes::Nothing).outcome.is_ok()
        }
    }
}

/// Whether the rules say anything to this caller about `server`'s entries of this kind, whatever these are: some permit
/// may apply, and no forbid hides them all. Without a `kind`: of any. For telling a caller that a server's part of an
/// answer is missing, and no other caller that there is such a server.
#[must_use]
pub fn concerns(table: &Table, caller: &Caller, task: ActiveTask, server: ServerId, kind: Option<ListKind>) -> bool {
    let asker = Asker { table, caller, task, server, scene: None };
    match kind {
        None => (0..3).any(|kind| asker.concerns(kind)),
        Some(ListKind::Tools) => asker.concerns(0),
        Some(ListKind::Prompts) => asker.concerns(1),
        Some(ListKind::Resources | ListKind::Templates) => asker.concerns(2),
    }
}

/// Whether `server` may ask this of the client that a call of this caller came from. Nothing is known of the time, and
/// nothing can be counted or asked: [`judge_at`] can.
///
/// # Errors
/// [`Why`], with a reason where a rule has one.
pub fn asks(table: &Table, caller: &Caller, task: ActiveTask, server: ServerId, ask: Ask) -> Result<Rules, Why> {
    let Verdict { outcome, rules, asking, .. } = judge(table, caller, task, server, Question::Ask(ask));
    outcome?;
    match asking {
        Some(Asking { rule, reason, .. }) => Err(Why::ApprovalUnknown { rule, reason }),
        None => Ok(rules),
    }
}

/// Whether the resource at `uri` may be read, limits and approvals left out: for notifications that name one, which
/// come after a call that took them.
#[must_use]
pub fn readable(table: &Table, caller: &Caller, task: ActiveTask, server: ServerId, uri: &str) -> bool {
    let asker = Asker { table, caller, task, server, scene: None };
    asker.judge(Question::Read(uri), None, Takes::Nothing).outcome.is_ok()
}

/// The same at a known time, after what has happened.
#[must_use]
pub fn readable_at(
    table: &Table,
    caller: &Caller,
    task: ActiveTask,
    server: ServerId,
    uri: &str,
    scene: &Scene<'_>,
) -> bool {
    let asker = Asker { table, caller, task, server, scene: Some(scene) };
    asker.judge(Question::Read(uri), None, Takes::Nothing).outcome.is_ok()
}

/// What the rates of `policy.rates` need of a message that no rule is about (`initialize`, lists, …), to this server or
/// to none. Of a rate with patterns only where it names the method: then whatever it says of the server suffices.
///
/// # Errors
/// [`Why::RateUnknown`], where nobody owns the count of a rate that applies.
pub fn rates(
    table: &Table,
    caller: &Caller,
    task: ActiveTask,
    server: Option<ServerId>,
    scene: &Scene<'_>,
) -> Result<Needs, Why> {
    let mut needs = Needs::new();
    for (place, rate) in (0_u16..).zip(table.set.rates()) {
        let asker = Asker { table, caller, task, server: server.unwrap_or_default(), scene: Some(scene) };
        let payer = Payer { target: (b'-', ""), ..asker.payer((b'-', ""), None) };
        let name = server.and_then(|server| table.servers.get(server.index())).map_or("", |name| name);
        let payer = Payer { facts: Facts { server: name, ..payer.facts }, ..payer };
        let is_there = || server.is_some() && rate.on.iter().any(|pattern| pattern.has_server(name));
        if rate.on.is_empty() || !rate.methods.is_empty() && is_there() {
            needs.extend(rate_need(table, place, &payer)?);
        }
    }
    Ok(needs)
}

/// Answers a question as a call with these `arguments` (a JSON object; `None` where there are none) would be: with the
/// time, and with what the call would need. For what a server asks of a client.
#[must_use]
pub fn judge_at(
    table: &Table,
    caller: &Caller,
    task: ActiveTask,
    server: ServerId,
    question: Question<'_>,
    arguments: Option<&[u8]>,
    scene: &Scene<'_>,
) -> Verdict {
    let takes = if let Question::Ask(_) = question { Takes::Limits } else { Takes::All };
    Asker { table, caller, task, server, scene: Some(scene) }.judge(question, arguments, takes)
}

/// Answers a question that need not be a call, as one at an unknown time: whatever reads the time, and limits, cannot be
/// told. That it is hidden, it says exactly.
#[must_use]
pub fn judge(table: &Table, caller: &Caller, task: ActiveTask, server: ServerId, question: Question<'_>) -> Verdict {
    Asker { table, caller, task, server, scene: None }.judge(question, None, Takes::Limits)
}

/// Who asks, and what for.
#[derive(Clone, Copy)]
struct Asker<'a> {
    table: &'a Table,
    caller: &'a Caller,
    task: ActiveTask,
    server: ServerId,
    scene: Option<&'a Scene<'a>>,
}

/// The two questions that config knows: what is shown, and what may be done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follows {
    List,
    Call(Takes),
}

impl<'a> Asker<'a> {
    fn judge(&self, question: Question<'_>, arguments: Option<&[u8]>, takes: Takes) -> Verdict {
        let Self { table, server, .. } = *self;
        let follows = if question.is_list() { Follows::List } else { Follows::Call(takes) };
        let (number, name) = match question {
            Question::Read(uri) | Question::List(ListKind::Resources, uri) => {
                return self.resource(Target::resource(uri), follows);
            }
            Question::CompleteTemplate(uri) | Question::List(ListKind::Templates, uri) => {
                return self.resource(Target::template(uri), follows);
            }
            Question::Ask(ask) => (table.names.ask(server, ask), ask_word(ask)),
            Question::CallTool(name)
            | Question::GetPrompt(name)
            | Question::CompletePrompt(name)
            | Question::List(ListKind::Tools | ListKind::Prompts, name) => {
                (table.names.item(server, question.kind(), name), name)
            }
        };
        self.numbered(number, (question.letter(), name), arguments, follows)
    }

    /// Whether a resource may be listened to: where it may be read, and nothing need be asked, nor come before.
    fn subscribes(&self, uri: &str, scene: &Scene<'_>) -> (Verdict, bool) {
        let verdict = self.judge(Question::Read(uri), None, Takes::Limits);
        let came = |need: &Need| match need.what {
            NeedOf::After { within_ms } => scene.past.happened(need.key, within_ms),
            _ => true,
        };
        let is_free = verdict.is_free() && verdict.needs.iter().all(came);
        (verdict, is_free)
    }

    /// The permits of what may be called by its caller whatever it is called with, at any time: as [`Self::numbered`] says
    /// it of nearly all calls, at less cost. `None` where that has to be looked at.
    fn freely(&self, number: usize) -> Option<Rules> {
        let view = self.table.view(self.caller, self.task);
        let plain = !view.is_slow(number) && !view.says(Says::Silent, number);
        let free = plain && view.says(Says::Permit, number) && !view.says(Says::Reasoned, number);
        free.then(|| view.permits(self.table, number))
    }

    /// Answers a question about a tool, a prompt, or what a server may ask, by its number; `None` is nothing of that name.
    fn numbered(
        &self,
        number: Option<usize>,
        target: (u8, &str),
        arguments: Option<&[u8]>,
        follows: Follows,
    ) -> Verdict {
        let Some(number) = number else { return Verdict::hidden() };
        let view = self.table.view(self.caller, self.task);
        if view.is_slow(number) {
            return self.weigh(view, About::Number(number), self.payer(target, arguments), follows);
        }
        let name = |says| view.names(self.table, says, number);
        if view.says(Says::Silent, number) {
            return Verdict::new(Err(Why::Hidden), name(Says::Silent));
        }
        if !view.says(Says::Permit, number) {
            return Verdict::hidden();
        }
        if follows == Follows::List || !view.says(Says::Reasoned, number) {
            return Verdict::new(Ok(()), name(Says::Permit));
        }
        let rules = name(Says::Reasoned);
        let reason = self.table.set.rule(rules[0]).reason.clone();
        Verdict::new(Err(Why::Forbidden { rule: rules[0], reason }), rules)
    }

    /// Whether the list shows it.
    fn is_shown(&self, number: usize, target: (u8, &str)) -> bool {
        let view = self.table.view(self.caller, self.task);
        if view.is_slow(number) {
            return self.weigh(view, About::Number(number), self.payer(target, None), Follows::List).outcome.is_ok();
        }
        view.says(Says::Permit, number) && !view.says(Says::Silent, number)
    }

    fn resource(&self, target: Option<Target<'_>>, follows: Follows) -> Verdict {
        let Some(target) = target.filter(|_| self.server.index() < self.table.servers.len()) else {
            return Verdict::hidden();
        };
        let view = self.table.view(self.caller, self.task);
        self.weigh(view, About::Resource(&target), self.payer((b'r', target.normal()), None), follows)
    }

    fn weigh<'b>(&self, view: View<'b>, about: About<'b>, payer: Payer<'b>, follows: Follows) -> Verdict
    where
        'a: 'b,
    {
        let (table, server) = (self.table, self.server);
        let takes = if let Follows::Call(takes) = follows { takes } else { Takes::Nothing };
        let case = Case { table, view, server, about, payer, takes };
        match follows {
            Follows::Call(_) => case.call(),
            Follows::List => {
                let (outcome, rules) = case.list();
                Verdict::new(outcome, rules)
            }
        }
    }

    fn payer<'b>(&self, target: (u8, &'b str), args: Option<&'b [u8]>) -> Payer<'b>
    where
        'a: 'b,
    {
        let facts = Facts {
            caller: self.caller,
            args,
            task: match self.task {
                ActiveTask::One(task) => Some(self.table.set.tasks().name(task)),
                ActiveTask::None | ActiveTask::Several => None,
            },
            tool: if matches!(target.0, b'c' | b'g') { target.1 } else { "" },
            server: self.table.servers.get(self.server.index()).map_or("", |name| name),
            now_s: self.scene.map_or(0, |scene| scene.unix_ms / 1000),
        };
        Payer { facts, scene: self.scene, target }
    }

    /// Whether there may be entries of this kind (tools, prompts, resources) for the caller.
    fn concerns(&self, kind: usize) -> bool {
        let Self { table, server, .. } = *self;
        let view = table.view(self.caller, self.task);
        let (mut some, mut all) = (false, false);
        for (at, stand) in view.groups() {
            let Reaches { some: permitted, hides_all, maybe } = &table.groups[*at as usize].reach;
            let (may, sure) = (stand.permits, !stand.unknown);
            all |= hides_all[kind].get(server.index());
            some |= may && sure && permitted[kind].get(server.index());
            for Maybe { rule, site, kinds } in maybe {
                let rule = table.set.rule(*rule);
                let is_refusal = rule.effect == Effect::Forbid;
                let settled = if is_refusal { all } else { some || !sure || rule.effect == Effect::Permit && !may };
                if settled || !kinds[kind] || !table.is_at(*site, server) {
                    continue;
                }
                let facts = self.payer((b'-', ""), None).facts;
                let could = |truth| {
                    rule.when.as_ref().map_or(truth == Truth::True, |when| {
                        // Of which tool, nobody knows: what may look at it can come to anything.
                        when.reads_tool() || when.could(&facts).has(truth)
                    })
                };
                if is_refusal {
                    all |= rule.limits.is_empty() && !could(Truth::False);
                } else {
                    some |= could(Truth::True);
                }
            }
        }
        some && !all
    }
}

impl Question<'_> {
    /// Whether it is about what is shown.
    pub(super) fn is_list(self) -> bool {
        matches!(self, Self::List(..) | Self::CompletePrompt(_) | Self::CompleteTemplate(_))
    }

    /// A letter for the kind of what it is about.
    fn letter(self) -> u8 {
        match self {
            Self::CallTool(_) | Self::List(ListKind::Tools, _) => b'c',
            Self::GetPrompt(_) | Self::CompletePrompt(_) | Self::List(ListKind::Prompts, _) => b'g',
            Self::Ask(_) => b'q',
            Self::Read(_) | Self::CompleteTemplate(_) | Self::List(..) => b'r',
        }
    }

    /// Of what has a number, the list that has it.
    fn kind(self) -> ListKind {
        if self.letter() == b'g' { ListKind::Prompts } else { ListKind::Tools }
    }
}

fn ask_word(ask: Ask) -> &'static str {
    match ask {
        Ask::Sampling => "sampling",
        Ask::Elicitation => "elicitation",
        Ask::Roots => "roots",
    }
}

impl Verdict {
    pub(super) fn new(outcome: Result<(), Why>, rules: Rules) -> Self {
        let (needs, notes, remarks) = (Needs::new(), Vec::new(), Remarks::default());
        Self { outcome, rules, needs, asking: None, notes, remarks }
    }

    fn hidden() -> Self {
        Self::new(Err(Why::Hidden), Rules::new())
    }

    /// Yes, and nobody need be asked.
    fn is_free(&self) -> bool {
        self.outcome.is_ok() && self.asking.is_none()
    }
}
