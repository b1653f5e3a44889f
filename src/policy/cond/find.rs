//! Finds all paths that a condition names in one look over the members on their way, and counts what that costs.

use smallvec::SmallVec;

use super::ast::Step;
use super::text::Text;
use crate::base::limits::COND_STEPS_MAX;

/// What one evaluation may still cost, in steps of about eight nanoseconds. Where nothing is left, all is unknown.
#[derive(Debug)]
pub(super) struct Fuel(u32);

impl Fuel {
    pub(super) fn full() -> Self {
        Self(COND_STEPS_MAX)
    }

    /// Takes one step, and one for each `bytes_a_step` of these bytes; false where not enough is left.
    #[inline]
    pub(super) fn take(&mut self, bytes: usize, bytes_a_step: usize) -> bool {
        let steps = u32::try_from(bytes / bytes_a_step).unwrap_or(u32::MAX).saturating_add(1);
        let left = self.0.checked_sub(steps);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

/// All paths of a condition into one object, as a tree: its first node is the object, and no child stands before its
/// parent.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    step: Step,
    /// The nodes one step further: they stand together.
    first: u16,
    children: u16,
    /// Which of the paths leads here.
    path: Option<u8>,
}

/// What was found, as written, node by node; nothing of what is missing.
pub(super) type Found<'a> = SmallVec<[&'a [u8]; 12]>;

impl Tree {
    /// The tree of these paths, at most [`crate::base::limits::COND_PATHS_MAX`].
    pub(super) fn new(paths: &[&[Step]]) -> Self {
        let mut tree = Self { nodes: Vec::new() };
        let place = paths.iter().position(|path| path.is_empty());
        // Nodes whose children are not there yet, with the paths that lead through them.
        let mut waiting: std::collections::VecDeque<Vec<usize>> = [(0..paths.len()).collect()].into();
        tree.nodes.push(Node {
            step: Step::Index(0),
            first: 0,
            children: 0,
            path: place.and_then(|at| u8::try_from(at).ok()),
        });
        let mut depths = vec![0_usize];
        let mut at = 0;
        while let Some(through) = waiting.pop_front() {
            let depth = depths[at];
            let first = tree.nodes.len();
            for &path in &through {
                let Some(step) = paths[path].get(depth) else { continue };
                match tree.nodes[first..].iter().position(|node| node.step == *step) {
                    Some(child) => {
                        let behind = waiting.len() - (tree.nodes.len() - first);
                        waiting[behind + child].push(path);
                    }
                    None => {
                        tree.nodes.push(Node { step: step.clone(), first: 0, children: 0, path: None });
                        depths.push(depth + 1);
                        waiting.push_back(vec![path]);
                    }
                }
                if paths[path].len() == depth + 1 {
                    let child = tree.nodes[first..].iter().position(|node| node.step == *step).unwrap_or(0);
                    tree.nodes[first + child].path = u8::try_from(path).ok();
                }
            }
            tree.nodes[at].first = u16::try_from(first).unwrap_or(u16::MAX);
            tree.nodes[at].children = u16::try_from(tree.nodes.len() - first).unwrap_or(0);
            at += 1;
        }
        tree
    }

    /// The node that these steps lead to; the tree was made of a path that has them.
    pub(super) fn node(&self, steps: &[Step]) -> u16 {
        let mut at = 0;
        for step in steps {
            let node = &self.nodes[at];
            let children = usize::from(node.first)..usize::from(node.first + node.children);
            at = children.into_iter().find(|child| self.nodes[*child].step == *step).unwrap_or(0);
        }
        u16::try_from(at).unwrap_or(0)
    }

    /// Looks the paths up in `raw`, an object as written. What is there of the ones whose bit is set in `dead` is
    /// [`DEAD`].
    pub(super) fn find<'a>(&self, raw: &'a [u8], dead: u64, fuel: &mut Fuel) -> Found<'a> {
        let mut found = Found::new();
        found.resize(self.nodes.len(), &[]);
        found[0] = raw.trim_ascii();
        for (at, node) in self.nodes.iter().enumerate() {
            let raw = found[at];
            if node.children > 0 && !raw.is_empty() {
                let first = usize::from(node.first);
                let children = first..first + usize::from(node.children);
                let _ = self.children(raw, children, &mut found, fuel);
            }
        }
        if dead != 0 {
            for (raw, node) in found.iter_mut().zip(&self.nodes) {
                if !raw.is_empty() && node.path.is_some_and(|path| dead >> path & 1 == 1) {
                    *raw = DEAD;
                }
            }
        }
        found
    }

    /// Puts the children that the object or list `raw` has into `found`. `None` where it ended early.
    fn children<'a>(
        &self,
        raw: &'a [u8],
        children: std::ops::Range<usize>,
        found: &mut Found<'a>,
        fuel: &mut Fuel,
    ) -> Option<()> {
        let mut left = children.len();
        // Each name is held against all that are wanted.
        let many = if left > CHILDREN_A_STEP { left } else { 0 };
        if raw[0] == b'{' {
            let mut members = Cursor::inside(raw);
            while let Some((name, escaped, value)) = members.member(fuel) {
                if many > 0 && !fuel.take(many, CHILDREN_A_STEP) {
                    return None;
                }
                for child in children.clone() {
                    let Step::Name(wanted) = &self.nodes[child].step else { continue };
                    if is_name(name, escaped, wanted) && found[child].is_empty() {
                        found[child] = value;
                        left -= 1;
                    }
                }
                if left == 0 {
                    return None;
                }
            }
        } else if raw[0] == b'[' {
            let mut elements = Cursor::inside(raw);
            let mut place = 0;
            while let Some(value) = elements.element(fuel) {
                if many > 0 && !fuel.take(many, CHILDREN_A_STEP) {
                    return None;
                }
                for child in children.clone() {
                    if self.nodes[child].step == Step::Index(place) {
                        found[child] = value;
                        left -= 1;
                    }
                }
                if left == 0 {
                    return None;
                }
                place += 1;
            }
        }
        Some(())
    }
}

fn is_name(written: &[u8], escaped: bool, name: &str) -> bool {
    if escaped { Text::inside(written) == Some(Text::Plain(name)) } else { written == name.as_bytes() }
}

/// Goes through an object or list as written. What is no JSON is no panic, and ends it.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Behind the bracket that `raw` begins with.
    pub(super) fn inside(raw: &'a [u8]) -> Self {
        Self { bytes: raw, at: 1 }
    }

    /// The next member: what stands between the quotes of its name, whether that has escapes, and its value.
    #[inline]
    fn member(&mut self, fuel: &mut Fuel) -> Option<(&'a [u8], bool, &'a [u8])> {
        if self.blank(fuel)? != b'"' {
            return None;
        }
        let start = self.at + 1;
        let escaped = self.text(fuel)?;
        let name = &self.bytes[start..self.at - 1];
        if self.blank(fuel)? != b':' {
            return None;
        }
        self.at += 1;
        Some((name, escaped, self.element(fuel)?))
    }

    /// The next element of a list; nothing where there is none, or `fuel` is spent.
    #[inline]
    pub(super) fn element(&mut self, fuel: &mut Fuel) -> Option<&'a [u8]> {
        let first = self.blank(fuel)?;
        let start = self.at;
        match first {
            b'"' => {
                self.text(fuel)?;
            }
            b'{' | b'[' => self.nest(fuel)?,
            b'}' | b']' | b',' | b':' => return None,
            _ => {
                let is_inside = |byte: &u8| !matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
                self.run(is_inside, LETTERS_A_STEP, fuel)?;
            }
        }
        let value = &self.bytes[start..self.at];
        if self.blank(fuel) == Some(b',') {
            self.at += 1;
        }
        Some(value)
    }

    /// How many members an object has; nothing where `fuel` does not suffice.
    pub(super) fn members(mut self, fuel: &mut Fuel) -> Option<u64> {
        let mut count = 0;
        while self.member(fuel).is_some() {
            count += 1;
        }
        (!fuel.is_spent()).then_some(count)
    }

    /// How many elements a list has.
    pub(super) fn elements(mut self, fuel: &mut Fuel) -> Option<u64> {
        let mut count = 0;
        while self.element(fuel).is_some() {
            count += 1;
        }
        (!fuel.is_spent()).then_some(count)
    }

    /// The next byte that is not blank.
    #[inline]
    fn blank(&mut self, fuel: &mut Fuel) -> Option<u8> {
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let first = *self.bytes.get(self.at)?;
        if !is_blank(&first) {
            return Some(first);
        }
        self.run(is_blank, BLANKS_A_STEP, fuel)?;
        self.bytes.get(self.at).copied()
    }

    /// Goes behind the bytes that are so; nothing is looked at before it is paid for.
    fn run(&mut self, is_so: impl Fn(&u8) -> bool, bytes_a_step: usize, fuel: &mut Fuel) -> Option<()> {
        loop {
            let left = self.bytes.get(self.at..)?;
            let left = &left[..left.len().min(RUN_BYTES)];
            let length = left.iter().position(|byte| !is_so(byte)).unwrap_or(left.len());
            self.at += length;
            if !fuel.take(length, bytes_a_step) {
                return None;
            }
            if length < RUN_BYTES {
                return Some(());
            }
        }
    }

    /// Goes behind the text that begins here, and tells whether it has escapes.
    #[inline]
    fn text(&mut self, fuel: &mut Fuel) -> Option<bool> {
        let start = self.at + 1;
        self.at = start;
        let mut escapes = 0_usize;
        let mut found = first_of_two(self.bytes.get(start..)?)?;
        loop {
            let byte = *self.bytes.get(self.at + found)?;
            self.at += found + 1;
            if byte == b'"' {
                return fuel.take(self.at - start, BYTES_A_STEP).then_some(escapes > 0);
            }
            escapes += 1;
            self.at += 1;
            if escapes.is_multiple_of(ESCAPES_A_STEP) && !fuel.take(0, 1) {
                return None;
            }
            found = first_of_two(self.bytes.get(self.at..)?)?;
        }
    }

    /// Goes behind the object or list that begins here. Brackets of the other kind pair up in between.
    fn nest(&mut self, fuel: &mut Fuel) -> Option<()> {
        let open = self.bytes[self.at];
        let close = if open == b'{' { b'}' } else { b']' };
        let mut depth = 0_usize;
        loop {
            let found = memchr::memchr3(b'"', open, close, self.bytes.get(self.at..)?)?;
            self.at += found;
            if !fuel.take(found, BYTES_A_STEP) {
                return None;
            }
            match self.bytes[self.at] {
                b'"' => {
                    self.text(fuel)?;
                    continue;
                }
                byte if byte == open => depth += 1,
                _ => depth -= 1,
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

/// Where the first quote or backslash stands. Most texts are short: a call to what is good at long ones costs more than
/// they do.
#[inline]
fn first_of_two(bytes: &[u8]) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    // The lowest bit that is set tells the first byte that is zero (Mycroft).
    let zero = |word: u64| word.wrapping_sub(LOW) & !word & (LOW << 7);
    let mut at = 0;
    while let Some(Ok(word)) = bytes.get(at..at + 8).filter(|_| at < SHORT).map(<[u8; 8]>::try_from) {
        let word = u64::from_le_bytes(word);
        let found = zero(word ^ (LOW * u64::from(b'"'))) | zero(word ^ (LOW * u64::from(b'\\')));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    Some(at + memchr::memchr2(b'"', b'\\', &bytes[at..])?)
}

/// What stands where a path leads somewhere that no tool says it has: no JSON, so no value; whether it is there, nobody
/// can tell either, since nobody knows what the server does with it.
pub(super) const DEAD: &[u8] = b"!";

const SHORT: usize = 32;
/// What one step is enough for, beside the one that all begin with.
const BYTES_A_STEP: usize = 256;
const BLANKS_A_STEP: usize = 16;
const LETTERS_A_STEP: usize = 8;
const ESCAPES_A_STEP: usize = 2;
const CHILDREN_A_STEP: usize = 8;
const RUN_BYTES: usize = 1024;
