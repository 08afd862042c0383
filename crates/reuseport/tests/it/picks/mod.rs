//! What counts as a pick, who gets what when nobody is in the table, and tables
//! that are swapped under load. The kernel program's own counters prove that it decided.

mod gone;
mod mixture;
mod strays;
mod swaps;
