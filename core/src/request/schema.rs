//! The JSON Schema of requests, made from the table that [`Request::parse`] reads them by.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::{Kind, Request, TYPES, Type};
use crate::action::{ACTION_FIELDS, ActionName, Instead, REVIVE_AFTER_MAX_MS, REVIVE_AFTER_MS, Spread};
use crate::event::{CONFIRM_AFTER_MAX_MS, MAX_ID_BYTES};
use crate::selector::{ALLOW_FIELDS, MAX_ALLOWED};
use crate::{
    Backend, Frontend, MAX_BACKENDS, MAX_FRONTENDS, MAX_NETWORKS, Network, Selector, UnknownFrontend,
};

impl JsonSchema for Request {
    fn schema_name() -> Cow<'static, str> {
        "Request".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kinds: Vec<Value> = TYPES
            .iter()
            .map(|ty| {
                let schema = of_type(ty, generator);
                generator.definitions_mut().insert(ty.name.to_owned(), schema);
                json!({"$ref": format!("#/$defs/{}", ty.name)})
            })
            .collect();
        json_schema!({
            "description": "One line of input: an event, or a question about the service. What has this form may still be \
                            refused; the refusal names the field and the reason.",
            "oneOf": kinds,
        })
    }
}

fn of_type(ty: &Type, generator: &mut SchemaGenerator) -> Value {
    let properties: Map<String, Value> = ty
        .takes
        .iter()
        .map(|field| {
            let schema =
                if *field == "type" { Some(json!({"const": ty.name})) } else { of_field(field, generator) };
            ((*field).to_owned(), schema.unwrap_or(Value::Bool(true)))
        })
        .collect();
    let required: Vec<&str> = ["id", "type"].iter().chain(required(ty.kind)).copied().collect();
    let mut schema = json!({
        "type": "object",
        "description": description(ty.kind),
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    // Where sockets are connected to, and how, is for actions that connect them.
    let of_action: Map<String, Value> = ACTION_FIELDS
        .iter()
        .filter(|(field, _)| ty.takes.contains(field))
        .map(|(field, _)| ((*field).to_owned(), json!(["action"])))
        .collect();
    if !of_action.is_empty() {
        schema["dependentRequired"] = of_action.into();
    }
    schema
}

/// The fields without which there is no request of this kind, beside `id` and `type`.
const fn required(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::BackendDeleted | Kind::BackendAdded => &["backend"],
        Kind::BackendsDeleted | Kind::Reconcile => &["backends"],
        Kind::Terminate => &["where"],
        Kind::Policy => &["where", "allow"],
        Kind::Index | Kind::Status | Kind::Top | Kind::Audit => &[],
    }
}

const fn description(kind: Kind) -> &'static str {
    match kind {
        Kind::BackendDeleted => "The backend is gone.",
        Kind::BackendsDeleted => "Several backends are gone, all in one event with one report.",
        Kind::BackendAdded => {
            "The backend is there: deletions of it that wait to be confirmed are taken back."
        }
        Kind::Reconcile => "These backends live: everything else that the index has sockets of is gone.",
        Kind::Terminate => {
            "The connected sockets that `where` selects are to end, whoever they are connected to."
        }
        Kind::Policy => {
            "The connected sockets that `where` selects are to end, unless they are connected to what is in `allow`."
        }
        Kind::Index => "What is in the index?",
        Kind::Status => "How is the service?",
        Kind::Top => "How is the service, and which backends have the most sockets?",
        Kind::Audit => "Is the index right?",
    }
}

/// `None` for a field that is not known here.
fn of_field(field: &str, generator: &mut SchemaGenerator) -> Option<Value> {
    let most_victims = "Do nothing if it would destroy more sockets than this.";
    Some(match field {
        "id" => json!({
            "type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$",
            "description": "The sender's name for this request, which the answer mirrors. At most 256 bytes of UTF-8.",
        }),
        "backend" => reference::<Backend>(generator),
        "backends" => list::<Backend>(generator, MAX_BACKENDS),
        "within" => list::<Network>(generator, MAX_NETWORKS),
        "where" => described::<Selector>(generator, "Only these sockets are meant."),
        "except" => described::<Selector>(generator, "These sockets are not meant."),
        "allow" => {
            let mut entry = reference::<Selector>(generator);
            entry["propertyNames"] = json!({"enum": ALLOW_FIELDS});
            json!({"type": "array", "items": entry, "minItems": 1, "maxItems": MAX_ALLOWED})
        }
        "dry_run" => {
            json!({"type": "boolean", "description": "Report what would be destroyed, destroy nothing."})
        }
        "netns" => json!({
            "type": "string", "pattern": r"^/[^\x00-\x1f\x7f-\x9f]*$",
            "description": "The file of the network namespace that the zones of link-local backends are in.",
        }),
        "max_victims" => json!({"type": "integer", "minimum": 0, "description": most_victims}),
        "confirm_after_ms" => milliseconds(
            "Milliseconds that the event waits for a `backend-added` that takes it back.",
            0,
            CONFIRM_AFTER_MAX_MS,
        ),
        "action" => described::<ActionName>(generator, "What is done with the victims."),
        "to" => one_or_several::<Backend>(generator, MAX_BACKENDS, "Where sockets are connected to."),
        "spread" => described::<Spread>(generator, "Which of several destinations a socket is connected to."),
        "force" => json!({
            "type": "boolean",
            "description": "Also from and to ports of protocols whose two ends share state.",
        }),
        "after_ms" => {
            milliseconds("Milliseconds from the destroy to the revive.", REVIVE_AFTER_MS, REVIVE_AFTER_MAX_MS)
        }
        "tcp" => described::<Instead>(generator, "What is done with TCP sockets, which cannot be moved."),
        "else" => described::<Instead>(generator, "What is done with UDP sockets that could not be moved."),
        "frontend" => one_or_several::<Frontend>(
            generator,
            MAX_FRONTENDS,
            "Only clients that came through these frontends are meant.",
        ),
        "unknown_frontend" => described::<UnknownFrontend>(
            generator,
            "What is done with sockets of which it is not known which frontend they came through.",
        ),
        _ => return None,
    })
}

fn reference<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

fn described<T: JsonSchema>(generator: &mut SchemaGenerator, description: &str) -> Value {
    let mut schema = reference::<T>(generator);
    schema["description"] = description.into();
    schema
}

fn list<T: JsonSchema>(generator: &mut SchemaGenerator, most: usize) -> Value {
    json!({"type": "array", "items": reference::<T>(generator), "minItems": 1, "maxItems": most})
}

fn one_or_several<T: JsonSchema>(generator: &mut SchemaGenerator, most: usize, description: &str) -> Value {
    json!({"description": description, "anyOf": [reference::<T>(generator), list::<T>(generator, most)]})
}

fn milliseconds(description: &str, usual: u32, most: u32) -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": most, "default": usual, "description": description})
}

#[cfg(test)]
mod tests {
    use jsonschema::Validator;
    use proptest::prelude::*;
    use schemars::generate::SchemaSettings;

    use super::*;
    use crate::strategies;

    fn schema() -> Value {
        let settings = SchemaSettings::draft2020_12().for_serialize();
        settings.into_generator().into_root_schema_for::<Request>().to_value()
    }

    /// A line that both take, or both refuse.
    fn agree(validator: &Validator, line: &Value, good: bool) {
        let parsed = Request::parse(line.to_string().as_bytes(), 1);
        let errors: Vec<String> = validator.iter_errors(line).map(|e| e.to_string()).collect();
        assert_eq!(parsed.is_ok(), good, "{line}: {parsed:?}");
        assert_eq!(errors.is_empty(), good, "{line}: {errors:?}");
    }

    #[test]
    fn every_field_of_every_type_has_a_schema() {
        let schema = schema();
        assert_eq!(schema["oneOf"].as_array().unwrap().len(), TYPES.len());
        for ty in TYPES {
            let properties = schema["$defs"][ty.name]["properties"].as_object().unwrap();
            assert_eq!(properties.len(), ty.takes.len(), "{}", ty.name);
            for (field, schema) in properties {
                assert!(schema.is_object(), "say in of_field() what {field:?} of {} is", ty.name);
            }
        }
    }

    #[test]
    fn what_is_required_is_what_the_parser_misses() {
        let validator = jsonschema::validator_for(&schema()).unwrap();
        for ty in TYPES {
            let value = |field: &str| match field {
                "id" => json!("q1"),
                "type" => json!(ty.name),
                "backend" => json!("udp://10.0.0.1:53"),
                "backends" => json!(["udp://10.0.0.1:53"]),
                "where" => json!({"uid": 0}),
                "allow" => json!([{"ports": ["53"]}]),
                other => panic!("{other}"),
            };
            let needed: Vec<&str> = ["id", "type"].iter().chain(required(ty.kind)).copied().collect();
            let line: Value =
                needed.iter().map(|field| ((*field).to_owned(), value(field))).collect::<Map<_, _>>().into();
            agree(&validator, &line, true);
            for field in needed {
                let mut without = line.clone();
                without.as_object_mut().unwrap().remove(field);
                agree(&validator, &without, false);
            }
            let mut more = line.clone();
            more["colour"] = json!("red");
            agree(&validator, &more, false);
        }
    }

    #[test]
    fn what_the_schema_refuses_the_parser_refuses() {
        let validator = jsonschema::validator_for(&schema()).unwrap();
        let terminate = |selector: Value| json!({"id": "p", "type": "terminate", "where": selector});
        for good in [
            terminate(json!({"to": ["10.0.0.0/8", "::/0", "fd00::1"], "ports": ["53", "1-65535"], "uid": 0})),
            terminate(json!({"interface": "eth0", "netns": "blue"})),
            json!({"id": "e", "type": "backend-deleted", "backend": "udp://[fe80::1%eth0]:53", "netns": "/run/netns/a"}),
            json!({"id": "e", "type": "backend-added", "backend": "udp://[fe80::1%eth0]:53", "netns": "/run/netns/a"}),
            json!({"id": "e", "type": "backend-deleted", "backend": "udp://10.0.0.1:53", "frontend": "direct",
                   "unknown_frontend": "destroy"}),
            json!({"id": "e", "type": "backends-deleted", "backends": ["udp://10.0.0.1:53"], "action": "move",
                   "to": ["udp://10.0.0.2:53"], "tcp": "spare", "confirm_after_ms": 5000}),
            json!({"id": "é\u{1f980}", "type": "index"}),
        ] {
            agree(&validator, &good, true);
        }
        for bad in [
            terminate(json!({})),
            // Left out, not null.
            terminate(json!({"protocol": null, "ports": ["53"]})),
            terminate(json!({"cgroup": null, "ports": ["53"]})),
            terminate(json!({"netns": null, "ports": ["53"]})),
            terminate(json!({"uid": null, "ports": ["53"]})),
            terminate(json!({"interface": null, "ports": ["53"]})),
            terminate(json!({"to": []})),
            terminate(json!({"to": "10.0.0.0/8"})),
            terminate(json!({"to": ["10.0.0.0/08"]})),
            terminate(json!({"ports": ["0"]})),
            terminate(json!({"ports": [53]})),
            terminate(json!({"uid": -1})),
            terminate(json!({"uid": 4_294_967_295_u32})),
            terminate(json!({"cgroup": "a.slice"})),
            terminate(json!({"protocol": "sctp"})),
            terminate(json!({"colour": "red"})),
            json!({"id": "", "type": "index"}),
            json!({"id": "a\nb", "type": "index"}),
            json!({"id": "x".repeat(257), "type": "index"}),
            json!({"id": "p", "type": "policy", "where": {"uid": 0}, "allow": [{"uid": 1}]}),
            json!({"id": "p", "type": "policy", "where": {"uid": 0}, "allow": []}),
            json!({"id": "e", "type": "backend-deleted", "backend": "udp://10.0.0.1"}),
            json!({"id": "e", "type": "backend-deleted", "backend": "udp://10.0.0.1:53", "frontend": []}),
            json!({"id": "e", "type": "backend-deleted", "backend": "udp://10.0.0.1:53", "to": "udp://10.0.0.2:53"}),
            json!({"id": "e", "type": "reconcile", "backends": ["udp://10.0.0.1:53"], "within": ["10.0.0.0/0"]}),
            json!({"id": "e", "type": "reconcile", "backends": ["udp://10.0.0.1:53"], "frontend": "direct"}),
            json!({"id": "e", "type": "backend-vanished"}),
        ] {
            agree(&validator, &bad, false);
        }
    }

    proptest! {
        #[test]
        fn every_request_has_the_form(request in strategies::request()) {
            let validator = jsonschema::validator_for(&schema()).unwrap();
            let line = serde_json::to_value(&request).unwrap();
            let errors: Vec<String> = validator.iter_errors(&line).map(|e| e.to_string()).collect();
            prop_assert!(errors.is_empty(), "{}: {:?}", line, errors);
        }
    }
}
