//! What a container runs: the manifest's command and arguments, or what its image was mapped to.

use std::collections::BTreeMap;

/// What to run for images that cannot be pulled here: image name to command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageCommands {
    commands: BTreeMap<String, Vec<String>>,
}

/// A mapping or a container that says nothing runnable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Not of the form `IMAGE=COMMAND`.
    #[error("{0:?} is not IMAGE=COMMAND, such as 'quay.io/some/app:v1=python3 app.py --version 1'")]
    NoMapping(String),
    /// A quote without its end.
    #[error("{0:?} has a quote that is never closed")]
    OpenQuote(String),
    /// Neither a command nor a mapped image.
    #[error("image {0:?} cannot be pulled here: say what to run for it with --image '{0}=COMMAND'")]
    UnmappedImage(String),
    /// Neither a command nor an image.
    #[error("the container has neither an image nor a command")]
    Nothing,
}

impl ImageCommands {
    /// Reads `IMAGE=COMMAND` arguments. The command is split as a shell splits words, with single and
    /// double quotes and backslashes; nothing is expanded here.
    ///
    /// # Errors
    /// When one of them is not of that form.
    pub fn parse<S: AsRef<str>>(mappings: impl IntoIterator<Item = S>) -> Result<Self, CommandError> {
        let mut commands = BTreeMap::new();
        for mapping in mappings {
            let mapping = mapping.as_ref();
            let wrong = || CommandError::NoMapping(mapping.to_owned());
            let (image, command) = mapping.split_once('=').ok_or_else(wrong)?;
            let words = split_words(command)?;
            if image.trim().is_empty() || words.is_empty() {
                return Err(wrong());
            }
            commands.insert(image.trim().to_owned(), words);
        }
        Ok(Self { commands })
    }

    /// The command of an image, if it is mapped.
    pub fn of(&self, image: &str) -> Option<&[String]> {
        self.commands.get(image).map(Vec::as_slice)
    }

    /// The words a container runs, before variables are expanded.
    ///
    /// A mapped image stands for an image's ENTRYPOINT, so it takes the manifest's `args` along; as it
    /// was mapped on purpose it also replaces a `command`, which names a file of the image, and that
    /// command's `args`.
    ///
    /// # Errors
    /// When there is nothing to run.
    pub fn words(&self, image: &str, command: &[String], args: &[String]) -> Result<Vec<String>, CommandError> {
        match self.of(image) {
            Some(mapped) if command.is_empty() => Ok([mapped, args].concat()),
            Some(mapped) => Ok(mapped.to_vec()),
            None if !command.is_empty() => Ok([command, args].concat()),
            None if image.is_empty() => Err(CommandError::Nothing),
            None => Err(CommandError::UnmappedImage(image.to_owned())),
        }
    }
}

fn split_words(text: &str) -> Result<Vec<String>, CommandError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(characters.next()),
            (Some(_), inner) => word.get_or_insert_default().push(inner),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            (None, plain) => word.get_or_insert_default().push(plain),
        }
    }
    if quote.is_some() {
        return Err(CommandError::OpenQuote(text.to_owned()));
    }
    words.extend(word);
    Ok(words)
}

/// Replaces `$(NAME)` by the variable's value and `$$` by `$`, as Kubernetes does in `command`, `args`
/// and `env`; a name without a value stays as it is written.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let reference = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match reference.and_then(|(name, tail)| Some((value(name)?, tail))) {
            Some((found, tail)) => {
                expanded.push_str(&found);
                rest = tail;
            }
            None => {
                expanded.push('$');
                rest = after;
            }
        }
    }
    expanded.push_str(rest);
    expanded
}

/// [`expand`], and also the shell's `$NAME` and `${NAME}`: for commands given on a command line.
pub fn expand_shell(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut kubernetes = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        kubernetes.push_str(before);
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let name_end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        let (name, tail) = braced.unwrap_or_else(|| after.split_at(name_end));
        if !name.is_empty() && value(name).is_some() {
            kubernetes.push_str(&format!("$({name})"));
            rest = tail;
        } else if let Some(after) = after.strip_prefix('$') {
            kubernetes.push_str("$$");
            rest = after;
        } else {
            kubernetes.push('$');
            rest = after;
        }
    }
    kubernetes.push_str(rest);
    expand(&kubernetes, value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_mapped_image_takes_the_arguments_along() {
        let images = ImageCommands::parse(["app:v1=python3 'my app.py' --greet \"a \\\" b\" c\\ d"]).unwrap();
        let entrypoint = strings(&["python3", "my app.py", "--greet", "a \" b", "c d"]);
        assert_eq!(images.words("app:v1", &[], &[]).unwrap(), entrypoint);
        assert_eq!(images.words("app:v1", &[], &strings(&["-v"])).unwrap().last().unwrap(), "-v");
        assert_eq!(images.words("app:v1", &strings(&["/bin/app"]), &strings(&["-v"])).unwrap(), entrypoint);
        assert_eq!(images.words("other", &strings(&["sleep"]), &strings(&["1"])).unwrap(), ["sleep", "1"]);
    }

    #[test]
    fn an_image_nobody_mapped_says_how_to_map_it() {
        let error = ImageCommands::default().words("quay.io/a:v1", &[], &strings(&["x"])).unwrap_err();
        assert!(error.to_string().contains("--image 'quay.io/a:v1=COMMAND'"), "{error}");
        for wrong in ["", "a", "=b", "a=", "a='b"] {
            assert!(ImageCommands::parse([wrong]).is_err(), "{wrong}");
        }
    }

    fn lookup(name: &str) -> Option<String> {
        (name == "A").then(|| "x".to_owned())
    }

    #[test]
    fn variables_are_expanded_as_kubernetes_does() {
        assert_eq!(expand("$(A)-$(B)-$A-$$(A)-$(A", lookup), "x-$(B)-$A-$(A)-$(A");
        assert_eq!(expand_shell("$A ${A}b $(A) $B ${B} $$A $", lookup), "x xb x $B ${B} $A $");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = split_words(&text);
            let _ = expand(&text, lookup);
            let _ = expand_shell(&text, lookup);
        }
    }
}
