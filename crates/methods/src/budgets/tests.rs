//! Budgets against other people's numbers (`tests/golden`), and what every one of them promises.

mod golden;
mod promises;
