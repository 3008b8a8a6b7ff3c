//! Settings whose values are in files of their own, as container engines hand out secrets.

use std::collections::HashMap;

use crate::SettingsError;

/// What every variable of Souk begins with.
const PREFIX: &str = "SOUK__";
/// `SOUK__TOKEN__KEY_FILE` names the file that holds `SOUK__TOKEN__KEY`.
const SUFFIX: &str = "_FILE";

/// Souk's variables; for those that name a file, what is in it. Whether there is such a setting is for others to
/// say.
pub(crate) fn read(
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<HashMap<String, String>, SettingsError> {
    let ours = environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX));
    let (files, values): (Vec<_>, Vec<_>) = ours.partition(|(name, _)| name.ends_with(SUFFIX));
    let mut variables: HashMap<_, _> = values.into_iter().collect();
    for (mut name, path) in files {
        name.truncate(name.len() - SUFFIX.len());
        if variables.contains_key(&name) {
            return Err(SettingsError::Twice { name });
        }
        // An editor, or echo, ends a file with a line feed that is no part of the value.
        let value = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) => return Err(SettingsError::File { name, path: path.into(), error }),
        };
        variables.insert(name, value);
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::{Overrides, Settings};

    /// A file that is gone after the test.
    struct Kept(PathBuf);

    impl Kept {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("souk-{name}-{}", std::process::id()));
            std::fs::write(&path, text).expect("a file");
            Self(path)
        }

        fn path(&self) -> &str {
            self.0.to_str().expect("a Unicode path")
        }
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).expect("removed");
        }
    }

    fn load(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::load(None, variables, Overrides::default())
    }

    #[test]
    fn a_value_may_be_in_a_file_and_what_surrounds_it_is_none_of_it() {
        let key = "0123456789abcdef".repeat(4);
        let file = Kept::new("key", &format!(" {key}\r\n"));
        let settings = load(&[("SOUK__TOKEN__KEY_FILE", file.path())]).expect("loads");
        assert_eq!(settings.token.key.expect("a key").reveal(), key);
        let file = Kept::new("ask", "9000\n");
        let settings = load(&[("SOUK__ACTORS__ASK_MS_FILE", file.path())]).expect("loads");
        assert_eq!(settings.actors.ask_ms, 9_000);
    }

    #[test]
    fn a_file_for_an_unknown_key_is_an_error_that_names_the_key_and_no_content() {
        let file = Kept::new("unknown", "canary");
        let error = load(&[("SOUK__TOKEN__KEYS_FILE", file.path())]).expect_err("unknown").to_string();
        assert!(error.contains("keys") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn a_setting_that_is_given_and_in_a_file_is_an_error() {
        let file = Kept::new("twice", "/elsewhere");
        let error = load(&[("SOUK__DATA", "/here"), ("SOUK__DATA_FILE", file.path())]).expect_err("twice");
        assert!(matches!(&error, SettingsError::Twice { name } if name == "SOUK__DATA"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_that_names_it() {
        let error = load(&[("SOUK__TOKEN__KEY_FILE", "/nowhere/key")]).expect_err("no file");
        assert!(error.to_string().contains("SOUK__TOKEN__KEY_FILE names /nowhere/key"), "{error}");
        let SettingsError::File { path, error, .. } = error else { panic!("{error}") };
        assert_eq!((path.as_path(), error.kind()), (Path::new("/nowhere/key"), ErrorKind::NotFound));
    }
}
