mod birth;
mod factors;
mod families;
mod golden;
mod inputs;
mod mixture;
