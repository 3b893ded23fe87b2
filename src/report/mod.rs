//! A verdict for people ([`text`]), for a browser ([`html`]) and for programs ([`json`]). Nothing is decided here: only laid out.

pub mod diff;
mod facts;
mod hexdump;
pub mod html;
pub mod json;
pub mod text;
