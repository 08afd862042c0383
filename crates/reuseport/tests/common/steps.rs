//! The steps of an operation, by its system calls.

use std::cell::RefCell;
use std::rc::Rc;

use sk_reuseport::fault::{Call, Verdict, intercept};

/// Counts the steps of an operation: calls that change what the kernel has, of which several of one kind in a
/// row are one.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    last: Option<Call>,
    /// How many have begun.
    pub(crate) begun: usize,
}

impl Steps {
    /// Notes a call, and tells whether a step begins with it.
    pub(crate) fn begins_with(&mut self, call: Call) -> bool {
        let changes = matches!(
            call,
            Call::BpfObjPin
                | Call::BpfMapUpdateElem
                | Call::BpfMapDeleteElem
                | Call::AttachReuseportEbpf
                | Call::DetachReuseportBpf
        );
        let begins = changes && self.last != Some(call);
        self.last = Some(call);
        self.begun += usize::from(begins);
        begins
    }
}

/// The call with which a step begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) with: Call,
    /// Its number among all calls.
    pub(crate) call: usize,
}

/// Runs an operation, and tells its steps.
pub(crate) fn steps_of<T>(operation: impl FnOnce() -> T) -> (Vec<Step>, T) {
    let (mut call, mut steps) = (0, Steps::default());
    let all = Rc::new(RefCell::new(Vec::new()));
    let found = Rc::clone(&all);
    let hook = move |with| {
        if steps.begins_with(with) {
            found.borrow_mut().push(Step { with, call });
        }
        call += 1;
        Verdict::Allow
    };
    let result = intercept(hook, operation);
    (all.take(), result)
}
