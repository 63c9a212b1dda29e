//! One guard that takes back, in reverse order, what an act did, unless the act came to its end.

/// Steps to run if the act fails. Dropped without [`Undo::commit`], it runs them, last one first.
#[derive(Default)]
pub struct Undo<'a> {
    steps: Vec<Box<dyn FnOnce() + 'a>>,
}

impl<'a> Undo<'a> {
    /// Adds the reverse of something that has just been done (or is about to be half done).
    pub fn push(&mut self, step: impl FnOnce() + 'a) {
        self.steps.push(Box::new(step));
    }

    /// The act is complete: nothing is taken back.
    pub fn commit(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        while let Some(step) = self.steps.pop() {
            step();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn undoes_in_reverse_unless_committed() {
        let log = RefCell::new(vec![]);
        let mut undo = Undo::default();
        undo.push(|| log.borrow_mut().push(1));
        undo.push(|| log.borrow_mut().push(2));
        drop(undo);
        assert_eq!(*log.borrow(), [2, 1]);

        let mut undo = Undo::default();
        undo.push(|| log.borrow_mut().push(3));
        undo.commit();
        assert_eq!(*log.borrow(), [2, 1], "a committed act is not taken back");
    }
}
