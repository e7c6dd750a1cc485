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
    SumLen,
    Max,
    CountOne,
    SumAboveOne,
    Bool,
    Enum,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    pub name: String,
    /// Without steps where the local itself is the value.
    #[serde(default, deserialize_with = "path_or_nothing")]
    pub path: Path,
    /// Another local of the batch's frame than the batch.
    #[serde(default)]
    pub local: Option<String>,
    pub reduce: Reduce,
    /// Names of an enum's members; the position of the name that is found is the field's number.
    #[serde(default)]
    pub values: Vec<String>,
}

/// A function of which one call belongs to one iteration.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub file: String,
    pub function: String,
    /// It returns right after launching: leaving it is no end while a batch is queued.
    #[serde(default)]
    pub overlap: bool,
}

impl Step {
    pub fn matches(&self, filename: &str, qualname: &str) -> bool {
        self.function == qualname && file_ends_with(filename, &self.file)
    }
}

/// Functions of which one call is one iteration, where the engine keeps no counter.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    pub functions: Vec<Function>,
    /// Locals; the first one that a function has tells its calls apart.
    #[serde(default)]
    pub identity: Vec<String>,
    /// A coroutine, which leaves the stack at each await and comes back.
    #[serde(default)]
    pub resumed: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// From the root's `self`: the running iteration has ended once this is None.
    pub none: Path,
}

/// Whose local the batch is.
#[derive(Debug, Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Holder {
    #[default]
    Step,
    Root,
    Call,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    #[serde(default)]
    pub frame: Holder,
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

impl Phase {
    pub fn matches(&self, filename: &str, qualname: &str) -> bool {
        self.function == qualname && file_ends_with(filename, &self.file)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub root: Vec<Function>,
    #[serde(default)]
    pub step: Vec<Step>,
    #[serde(default)]
    pub counter: Vec<Counter>,
    #[serde(default)]
    pub call: Option<Call>,
    #[serde(default)]
    pub end: Option<End>,
    #[serde(default)]
    pub batch: Option<Batch>,
    #[serde(default)]
    pub gauges: Vec<Field>,
    #[serde(default)]
    pub phases: Vec<Phase>,
}

/// A dotted attribute path; `x[].y` is `y` of every element of the list `x`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
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

/// A path, or none for the object itself.
fn path_or_nothing<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Path, D::Error> {
    let text = String::deserialize(source)?;
    if text.is_empty() {
        return Ok(Path::default());
    }
    Path::try_from(text).map_err(serde::de::Error::custom)
}

impl Field {
    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let single = matches!(self.reduce, Reduce::Int | Reduce::Bool | Reduce::Enum);
        if self.path.each.is_some() && single {
            return Err(format!(
                "{name:?} reduces many values to one: use sum, sum_len, max, len, count_one \
                 or sum_above_one"
            ));
        }
        if (self.reduce == Reduce::Enum) == self.values.is_empty() {
            return Err(format!(
                "{name:?}: give \"values\" (names of the members) with \"enum\", and only there"
            ));
        }
        Ok(())
    }
}

impl Spec {
    /// Parses and checks; the error names the offending key or value and what to write.
    pub fn parse(text: &str) -> Result<Spec, String> {
        let spec: Spec = serde_json::from_str(text)
            .map_err(|error| format!("the spec is not valid: {error}; correct it and try again"))?;
        spec.check_anchors()?;
        spec.check_paths()?;
        spec.check_fields()?;
        Ok(spec)
    }

    fn check_anchors(&self) -> Result<(), String> {
        if self.root.is_empty() {
            return Err("the spec's \"root\" is empty: name at least one".to_owned());
        }
        if self.counter.is_empty() && self.call.is_none() {
            return Err(
                "the spec's \"counter\" is empty: name at least one, or give \"call\"".to_owned(),
            );
        }
        if self.call.iter().any(|call| call.functions.is_empty()) {
            return Err("the spec's \"call\" has no functions: name at least one".to_owned());
        }
        let holder = self.batch.as_ref().map(|batch| batch.frame);
        if holder == Some(Holder::Call) && self.call.is_none() {
            return Err(
                "the batch is a local of a call, and the spec has no \"call\": give it".to_owned(),
            );
        }
        if self.step.iter().any(|step| step.overlap) && self.queued().is_none() {
            return Err(
                "a step with \"overlap\" needs the deque in \"batch\".\"queued\": name it"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn check_paths(&self) -> Result<(), String> {
        let counters = self
            .counter
            .iter()
            .map(|counter| ("counter", &counter.path));
        let ends = self.end.iter().map(|end| ("end", &end.none));
        let queued = self.queued().map(|path| ("queued", path));
        for (key, path) in counters.chain(ends).chain(queued) {
            if path.each.is_some() {
                return Err(format!(
                    "the {key:?} path {:?} goes through a list: name a single object",
                    path.steps.join(".")
                ));
            }
        }
        Ok(())
    }

    fn check_fields(&self) -> Result<(), String> {
        let fields = self.batch.iter().flat_map(|batch| &batch.fields);
        for field in fields.clone().chain(&self.gauges) {
            field.check()?;
        }
        for gauge in &self.gauges {
            if gauge.local.is_some() || gauge.path.steps.is_empty() {
                return Err(format!(
                    "the gauge {:?} starts at the root's self: give it a path and no \"local\"",
                    gauge.name
                ));
            }
        }
        if fields.count() + self.gauges.len() > usize::from(u16::MAX) {
            return Err("the spec has more than 65535 fields: remove some".to_owned());
        }
        Ok(())
    }

    /// The path of the deque with the batches in flight.
    pub fn queued(&self) -> Option<&Path> {
        self.batch.as_ref()?.queued.as_ref()
    }

    /// The locals that fields take besides the batch, each once.
    pub fn other_locals(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for field in self.batch.iter().flat_map(|batch| &batch.fields) {
            if let Some(name) = &field.local {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        names
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

    fn with(part: &str) -> Result<Spec, String> {
        Spec::parse(&SMALL.replacen("\"counter\"", &format!("{part}, \"counter\""), 1))
    }

    #[test]
    fn a_call_may_stand_in_for_the_counter() {
        let text = r#"{"root": [{"file": "a.py", "function": "f"}],
            "call": {"functions": [{"file": "a.py", "function": "g"}], "identity": ["start"]}}"#;
        let spec = Spec::parse(text).unwrap();
        assert!(spec.counter.is_empty() && !spec.call.unwrap().resumed);
        let nothing = text.replacen(r#"[{"file": "a.py", "function": "g"}]"#, "[]", 1);
        assert!(Spec::parse(&nothing).unwrap_err().contains("\"call\""));
    }

    #[test]
    fn a_field_may_be_a_local_itself() {
        let spec = with(
            r#""batch": {"local": "batch", "frame": "root", "fields": [
                {"name": "a", "local": "count", "reduce": "int"},
                {"name": "b", "path": "", "local": "other", "reduce": "len"},
                {"name": "c", "path": "mode", "reduce": "enum", "values": ["ONE"]}]}"#,
        )
        .unwrap();
        assert_eq!(spec.other_locals(), ["count", "other"]);
        let batch = spec.batch.unwrap();
        assert_eq!(batch.frame, Holder::Root);
        assert!(batch.fields[0].path.steps.is_empty() && batch.fields[1].path.steps.is_empty());
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let step = r#""step": [{"file": "a.py", "function": "f", "overlap": true}]"#;
        assert!(with(step).unwrap_err().contains("queued"));
        let batch = r#""batch": {"local": "b", "frame": "call", "fields": []}"#;
        assert!(with(batch).unwrap_err().contains("\"call\""));
        for (field, named) in [
            (r#"{"name": "g", "path": "a", "reduce": "enum"}"#, "values"),
            (
                r#"{"name": "g", "path": "a", "reduce": "int", "values": ["X"]}"#,
                "values",
            ),
            (r#"{"name": "g", "reduce": "int"}"#, "path"),
            (
                r#"{"name": "g", "path": "a", "local": "l", "reduce": "int"}"#,
                "local",
            ),
            (
                r#"{"name": "g", "path": "a[].b", "reduce": "bool"}"#,
                "\"g\"",
            ),
        ] {
            let error = with(&format!("\"gauges\": [{field}]")).unwrap_err();
            assert!(error.contains(named), "{field}: {error}");
        }
        let end = with(r#""end": {"none": "a[].b"}"#).unwrap_err();
        assert!(end.contains("\"end\""));
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
