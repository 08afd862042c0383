//! What counts as a pick, where connections go when the table is empty, and tables that are swapped
//! under load. The counters of the kernel program prove that it decided.

mod early;
mod gone;
mod mixture;
mod passed_over;
mod receive_buffers;
mod standby;
mod strays;
mod swaps;
