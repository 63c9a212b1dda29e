//! Script tests: objects in, the maps out, with and without failing operations.

mod faulty;
mod rules;
mod script;
