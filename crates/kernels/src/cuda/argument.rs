//! Structures that the host and the kernels share, and the proof that both lay them out alike.

/// How the host lays out a structure. The compiler of the kernels is asked to agree (`compile.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Its name in the kernel file.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    /// What its address is a multiple of.
    pub alignment: usize,
    /// All fields in order.
    pub fields: &'static [Field],
}

/// A field of a [`Layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name, the same on both sides.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    /// What its address is a multiple of.
    pub alignment: usize,
}

impl Field {
    /// Of the type that `field` reads from a structure.
    #[must_use]
    pub const fn new<S, T>(name: &'static str, _field: fn(&S) -> &T) -> Self {
        Self { name, size: size_of::<T>(), alignment: align_of::<T>() }
    }
}

impl Layout {
    /// Text that compiles in a kernel file if and only if its structure has these fields and no others, in this order,
    /// and each as large and aligned as here: then each lies where it does here.
    ///
    /// Offsets are not compared as numbers, because `offsetof` is no constant for the compilers of CUDA 12 and 13.0.
    pub(super) fn assertions(&self) -> String {
        let Self { name, size, alignment, fields } = self;
        let mut text = format!(
            "static_assert(sizeof({name}) == {size} && alignof({name}) == {alignment}, \
             \"the host's {name} has {size} bytes, aligned to {alignment}\");\n"
        );
        for Field { name: field, size, alignment } in *fields {
            text += &format!(
                "static_assert(sizeof({name}::{field}) == {size} && alignof(decltype({name}::{field})) == {alignment}, \
                 \"the host's {name}.{field} has {size} bytes, aligned to {alignment}\");\n"
            );
        }
        let numbered: Vec<String> = (0..fields.len()).map(|number| format!("field{number}")).collect();
        let equal: Vec<String> = (fields.iter().zip(&numbered))
            .map(|(field, number)| format!("(const void *)&{number} == (const void *)&value.{}", field.name))
            .collect();
        text += &format!(
            "constexpr bool order_of_{name}() {{ {name} value{{}}; auto &[{}] = value; return {}; }}\n\
             static_assert(order_of_{name}(), \"the host's {name} has its fields in another order\");\n",
            numbered.join(", "),
            equal.join(" && ")
        );
        text
    }
}

/// A structure that kernels take by value, or read from memory that the host has written.
pub trait Argument: Copy {
    /// How it is laid out.
    const LAYOUT: Layout;
}

/// Declares a structure that kernels know by the name after `as`, field by field.
#[macro_export]
macro_rules! kernel_struct {
    (
        $(#[$meta:meta])*
        $visible:vis struct $name:ident as $kernel:ident {
            $( $(#[$field_meta:meta])* $field_visible:vis $field:ident: $type:ty ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        #[repr(C)]
        $visible struct $name {
            $( $(#[$field_meta])* $field_visible $field: $type, )*
        }

        impl $crate::cuda::Argument for $name {
            const LAYOUT: $crate::cuda::Layout = $crate::cuda::Layout {
                name: stringify!($kernel),
                size: size_of::<$name>(),
                alignment: align_of::<$name>(),
                fields: &[ $( $crate::cuda::Field::new(stringify!($field), |of: &$name| &of.$field), )* ],
            };
        }
    };
}
pub use kernel_struct;

#[cfg(test)]
mod tests;
