mod factors;
mod families;
mod golden;
mod mixture;
