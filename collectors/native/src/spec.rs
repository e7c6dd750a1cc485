//! What to look for in the engine: parsed from JSON, unknown keys refused.

use serde::Deserialize;

/// A function, by the end of its file's path and its qualified name.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Function {
    pub file: String,
    pub function: String,
}

impl Function {
    pub fn matches(&self, filename: &str, qualname: &str) -> bool {
        self.function == qualname && file_ends_with(filename, &self.file)
    }
}

/// Whether `filename` ends with `suffix` at a path component.
fn file_ends_with(filename: &str, suffix: &str) -> bool {
    match filename.strip_suffix(suffix) {
        Some(rest) => rest.is_empty() || rest.ends_with('/') || suffix.starts_with('/'),
        None => false,
    }
}

#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CounterKind {
    Int,
    Pointer,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    pub path: Path,
    pub kind: CounterKind,
}

#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    Int,
    Len,
    Sum,
    Max,
    CountOne,
    SumAboveOne,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    pub name: String,
    pub path: Path,
    pub reduce: Reduce,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    pub local: String,
    /// For overlapped engines: the deque, seen from the root's `self`, to whose left end a step
    /// function adds the batch before it assigns an older one to the local.
    #[serde(default)]
    pub queued: Option<Path>,
    pub fields: Vec<Field>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    #[allow(dead_code)] // results go by position
    pub phase: String,
    pub file: String,
    pub function: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub root: Vec<Function>,
    #[serde(default)]
    pub step: Vec<Function>,
    pub counter: Vec<Counter>,
    #[serde(default)]
    pub batch: Option<Batch>,
    #[serde(default)]
    pub gauges: Vec<Field>,
    #[serde(default)]
    pub phases: Vec<Phase>,
}

/// A dotted attribute path; `x[].y` is `y` of every element of the list `x`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Path {
    pub steps: Vec<String>,
    /// The attributes to take of each element.
    pub each: Option<Vec<String>>,
}

impl TryFrom<String> for Path {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let names = |part: &str| -> Option<Vec<String>> {
            let good = |name: &str| {
                !name.is_empty()
                    && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
                    && !name.starts_with(|c: char| c.is_ascii_digit())
            };
            let names: Vec<String> = part.split('.').map(str::to_owned).collect();
            names.iter().all(|name| good(name)).then_some(names)
        };
        let parsed = match text.split_once("[].") {
            None => names(&text).map(|steps| Path { steps, each: None }),
            Some((list, rest)) => names(list).zip(names(rest)).map(|(steps, each)| Path {
                steps,
                each: Some(each),
            }),
        };
        parsed.ok_or_else(|| {
            format!("bad path {text:?}: write attribute names as a.b, or list[].attribute once")
        })
    }
}

impl Spec {
    /// Parses and checks; the error names the offending key or value and what to write.
    pub fn parse(text: &str) -> Result<Spec, String> {
        let spec: Spec = serde_json::from_str(text)
            .map_err(|error| format!("the spec is not valid: {error}; correct it and try again"))?;
        for (key, empty) in [
            ("root", spec.root.is_empty()),
            ("counter", spec.counter.is_empty()),
        ] {
            if empty {
                return Err(format!("the spec's {key:?} is empty: name at least one"));
            }
        }
        if let Some(counter) = spec.counter.iter().find(|c| c.path.each.is_some()) {
            return Err(format!(
                "the counter path {:?} goes through a list: name a single value",
                counter.path.steps.join(".")
            ));
        }
        let queued = spec.batch.iter().filter_map(|batch| batch.queued.as_ref());
        if let Some(path) = queued.clone().find(|path| path.each.is_some()) {
            return Err(format!(
                "the \"queued\" path {:?} goes through a list: name the deque",
                path.steps.join(".")
            ));
        }
        let fields = spec.batch.iter().flat_map(|batch| &batch.fields);
        for field in fields.clone().chain(&spec.gauges) {
            if field.path.each.is_some() && field.reduce == Reduce::Int {
                return Err(format!(
                    "{:?} reduces many values with \"int\": use sum, max, len, count_one or sum_above_one",
                    field.name
                ));
            }
        }
        if fields.count() + spec.gauges.len() > usize::from(u16::MAX) {
            return Err("the spec has more than 65535 fields: remove some".to_owned());
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"root": [{"file": "core.py", "function": "Core.run"}],
        "counter": [{"path": "scheduler.current_step", "kind": "int"}]}"#;

    fn path(text: &str) -> Result<Path, String> {
        Path::try_from(text.to_owned())
    }

    #[test]
    fn the_small_spec_has_the_optional_parts_empty() {
        let spec = Spec::parse(SMALL).unwrap();
        assert!(spec.batch.is_none() && spec.step.is_empty() && spec.phases.is_empty());
        assert_eq!(spec.counter[0].path.steps, ["scheduler", "current_step"]);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let text = SMALL.replacen("\"root\"", "\"rooot\"", 1);
        assert!(Spec::parse(&text).unwrap_err().contains("rooot"));
        let text = SMALL.replacen("\"kind\"", "\"kind\": \"int\", \"knd\"", 1);
        assert!(Spec::parse(&text).unwrap_err().contains("knd"));
    }

    #[test]
    fn an_empty_counter_list_is_refused() {
        let text = r#"{"root": [{"file": "a.py", "function": "f"}], "counter": []}"#;
        assert!(Spec::parse(text).unwrap_err().contains("counter"));
    }

    #[test]
    fn one_value_cannot_stand_for_many() {
        let text = SMALL.replacen(
            "\"counter\"",
            r#""gauges": [{"name": "g", "path": "a[].b", "reduce": "int"}], "counter""#,
            1,
        );
        assert!(Spec::parse(&text).unwrap_err().contains("\"g\""));
    }

    #[test]
    fn paths_are_dotted_names_with_at_most_one_list() {
        let each = path("new[].a.b").unwrap();
        assert_eq!(each.each.unwrap(), ["a", "b"]);
        for bad in ["", ".", "a..b", "a[]", "a[].b[].c", "a b", "a()", "1a"] {
            assert!(path(bad).unwrap_err().contains("bad path"), "{bad}");
        }
    }

    #[test]
    fn files_match_at_path_components() {
        let step = Function {
            file: "engine/core.py".into(),
            function: "Core.step".into(),
        };
        assert!(step.matches("/site/vllm/engine/core.py", "Core.step"));
        assert!(step.matches("engine/core.py", "Core.step"));
        assert!(!step.matches("/site/xengine/core.py", "Core.step"));
        assert!(!step.matches("/site/engine/core.py", "Other.step"));
    }
}
