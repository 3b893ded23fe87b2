//! A verdict for people ([`text`]) and for programs ([`json`]). Nothing is decided here: only laid out.

mod hexdump;
pub mod json;
pub mod text;
