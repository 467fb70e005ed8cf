mod factors;
mod families;
mod golden;
