//! The tests' allocator: the system's, which counts what each thread asks for once somebody wants to know.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ARMED: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicUsize = AtomicUsize::new(0);
static THREADS: [Thread; THREADS_MAX] =
    [const { Thread { id: AtomicI32::new(0), count: AtomicU64::new(0) } }; THREADS_MAX];
const THREADS_MAX: usize = 8192;

thread_local! {
    static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Counting;

struct Thread {
    id: AtomicI32,
    count: AtomicU64,
}

/// From now on it counts.
pub(crate) fn begin() {
    ARMED.store(true, Ordering::SeqCst);
}

/// How often the thread of this name has asked for memory; `None` where there is none yet that did.
pub(crate) fn asked(name: &str) -> Option<u64> {
    let tasks = fs::read_dir("/proc/self/task").expect("a process has threads");
    let ids = tasks.filter_map(|task| {
        let path = task.ok()?.path();
        let is_it = fs::read_to_string(path.join("comm")).ok()?.trim_end() == name;
        path.file_name()?.to_str()?.parse::<i32>().ok().filter(|_| is_it)
    });
    let ids: Vec<i32> = ids.collect();
    assert!(ids.len() <= 1, "{} threads are called {name}", ids.len());
    let id = *ids.first()?;
    let thread = THREADS.iter().find(|thread| thread.id.load(Ordering::Acquire) == id)?;
    Some(thread.count.load(Ordering::Acquire))
}

fn count() {
    if !ARMED.load(Ordering::Relaxed) {
        return;
    }
    // A thread that is ending has no place any more, and counts for nothing.
    let _ = PLACE.try_with(|place| {
        let index = place.get().unwrap_or_else(|| {
            let index = NEXT.fetch_add(1, Ordering::Relaxed);
            place.set(Some(index));
            if let Some(thread) = THREADS.get(index) {
                thread.id.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
            }
            index
        });
        if let Some(thread) = THREADS.get(index) {
            thread.count.fetch_add(1, Ordering::Release);
        }
    });
}

// SAFETY: each method hands its arguments to the system's allocator as they came, and gives back what that gives;
// counting touches atomics and a thread-local without a destructor, and allocates nothing.
// JUSTIFICATION: nothing else sees every allocation of a thread.
#[expect(unsafe_code, reason = "an allocator is made of it")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}
