//! The protocol's own schemas, held against what the gateway answers: as much of JSON Schema as they use.

use std::path::PathBuf;

use serde_json::{Map, Value};

/// Names a folder with the schemas of the protocol, `2026-07-28.json` and so on.
const FOLDER_VARIABLE: &str = "PORTCULLIS_SCHEMAS";

/// The schema of one revision.
pub(crate) struct Schema(Value);

impl Schema {
    /// `None`, said aloud, where no folder with schemas is named.
    pub(crate) fn of(revision: &str) -> Option<Self> {
        let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else {
            eprintln!("SKIPPED: {FOLDER_VARIABLE} names no folder with the protocol's schemas");
            return None;
        };
        let file = PathBuf::from(folder).join(format!("{revision}.json"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|fault| panic!("{}: {fault}", file.display()));
        Some(Self(serde_json::from_str(&text).expect("a schema is JSON")))
    }

    /// Checks a value against one definition.
    #[track_caller]
    pub(crate) fn check(&self, definition: &str, value: &Value) {
        let schema = self.definition(definition).unwrap_or_else(|| panic!("the schema has no {definition}"));
        if let Err(fault) = self.fits(schema, value, "") {
            panic!("no {definition}: {fault}\n{value:#}");
        }
    }

    fn definition(&self, name: &str) -> Option<&Value> {
        ["$defs", "definitions"].iter().find_map(|place| self.0.get(place)?.get(name))
    }

    fn fits(&self, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        let Value::Object(schema) = schema else { return Ok(()) };
        let fault = |what: String| Err(format!("{place}: {what}"));
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            let name = name.rsplit('/').next().unwrap_or_default();
            let Some(meant) = self.definition(name) else { return fault(format!("{name} is not defined")) };
            self.fits(meant, value, place)?;
        }
        if let Some(types) = schema.get("type")
            && !listed(types).iter().any(|kind| is(kind, value))
        {
            return fault(format!("{value} is not of type {types}"));
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            return fault(format!("{value} is none of {allowed:?}"));
        }
        if let Some(only) = schema.get("const")
            && only != value
        {
            return fault(format!("{value} is not {only}"));
        }
        if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
            let faults: Vec<String> = any.iter().filter_map(|one| self.fits(one, value, place).err()).collect();
            if faults.len() == any.len() {
                return fault(faults.join("; or "));
            }
        }
        for one in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.fits(one, value, place)?;
        }
        match value {
            Value::Object(members) => self.members_fit(schema, members, place),
            Value::Array(items) => {
                let Some(each) = schema.get("items") else { return Ok(()) };
                items.iter().enumerate().try_for_each(|(at, item)| self.fits(each, item, &format!("{place}/{at}")))
            }
            _ => Ok(()),
        }
    }

    fn members_fit(
        &self,
        schema: &Map<String, Value>,
        members: &Map<String, Value>,
        place: &str,
    ) -> Result<(), String> {
        for name in schema.get("required").map(listed).unwrap_or_default() {
            if name.as_str().is_none_or(|name| !members.contains_key(name)) {
                return Err(format!("{place}: {name} is missing"));
            }
        }
        let known = schema.get("properties").and_then(Value::as_object);
        for (name, value) in members {
            let own = known.and_then(|known| known.get(name));
            if let Some(schema) = own.or(schema.get("additionalProperties")) {
                if *schema == Value::Bool(false) {
                    return Err(format!("{place}: {name} has no place here"));
                }
                self.fits(schema, value, &format!("{place}/{name}"))?;
            }
        }
        Ok(())
    }
}

fn listed(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_else(|| vec![value.clone()])
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    }
}

#[test]
fn what_does_not_fit_is_noticed() {
    let schema = Schema(serde_json::json!({ "$defs": {
        "A": { "type": "object", "required": ["n"], "properties": {
            "n": { "type": "integer" }, "b": { "$ref": "#/$defs/B" }, "l": { "items": { "enum": ["x", "y"] } } },
            "additionalProperties": { "type": "string" } },
        "B": { "anyOf": [{ "const": 1 }, { "type": ["null", "boolean"] }] },
    }}));
    let fits = |value: Value| schema.fits(schema.definition("A").expect("it is there"), &value, "").is_ok();
    assert!(fits(serde_json::json!({ "n": 1, "b": true, "l": ["x"], "more": "text" })));
    for wrong in [
        serde_json::json!([]),
        serde_json::json!({}),
        serde_json::json!({ "n": 1.5 }),
        serde_json::json!({ "n": 1, "b": "x" }),
        serde_json::json!({ "n": 1, "l": ["z"] }),
        serde_json::json!({ "n": 1, "more": 2 }),
    ] {
        assert!(!fits(wrong.clone()), "{wrong}");
    }
}
