mod families;
mod golden;
