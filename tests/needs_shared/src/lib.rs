//! What marks the tests that need the shared data, so that the runner counts them as ignored where these are absent.

use proc_macro::TokenStream;

/// Ignores a test where there are no shared data. Stands above `#[test]`.
#[proc_macro_attribute]
pub fn needs_shared(_: TokenStream, test: TokenStream) -> TokenStream {
    // What is ignored for another reason stays so, for that.
    if cfg!(shared) || test.to_string().replace(' ', "").contains("#[ignore") {
        return test;
    }
    let mut marked: TokenStream = "#[ignore = \"needs ../shared\"]".parse().expect("an attribute");
    marked.extend(test);
    marked
}

/// Whether the shared data were there when this was built.
#[proc_macro]
pub fn found(_: TokenStream) -> TokenStream {
    if cfg!(shared) { "true" } else { "false" }.parse().expect("a literal")
}
