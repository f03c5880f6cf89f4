//! What is between the name of a policy and its row: rules, limits, user agents.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::fields::{Presence, Reader, boolean, finite, int32, named, stored_number, text, uuid};
use crate::proto::policy_robots_txt::Usage;
use crate::proto::policy_url_rule::Action;
use crate::proto::{
    PatternMatch, Policy, PolicyAuthentication, PolicyLimits, PolicyMimeTypeRule, PolicyProxyRule, PolicyRobotsTxt,
    PolicyUrlNormalization, PolicyUrlRule, PolicyUserAgent,
};

/// The members of the row for a checked `policy`, except for its id and times.
///
/// Each one is there, whether it was set or not, for the crawler reads them all; written over an older row they clear what
/// is no longer set. Only `url_normalization.enabled` has no value for "not set", and stays.
pub(super) fn members(policy: &Policy, captcha_solver_id: Option<Uuid>) -> Map<String, Value> {
    let limits = policy.limits.unwrap_or_default();
    let mut url_normalization = Map::new();
    let normalization = policy.url_normalization.as_ref();
    insert(&mut url_normalization, "enabled", normalization.and_then(|normalization| normalization.enabled));
    let strip_parameters = normalization.map(|normalization| normalization.strip_parameters.as_slice());
    insert(&mut url_normalization, "strip_parameters", Some(strip_parameters.unwrap_or_default()));
    let mut members = Map::new();
    let mut set = |name: &str, value: Value| drop(members.insert(name.to_owned(), value));
    set("name", policy.name().into());
    set("authentication", json!({"enabled": policy.authentication.unwrap_or_default().enabled()}));
    set("captcha_solver_id", captcha_solver_id.map(|id| id.to_string()).into());
    set(
        "limits",
        json!({
            "max_cost": limits.max_cost.and_then(stored_number),
            "max_duration": limits.max_duration.and_then(stored_number),
            "max_items": limits.max_items,
        }),
    );
    set("mime_type_rules", policy.mime_type_rules.iter().map(mime_type_rule).collect());
    set("proxy_rules", policy.proxy_rules.iter().map(proxy_rule).collect());
    set("robots_txt", json!({"usage": policy.robots_txt.unwrap_or_default().usage().as_str_name()}));
    set("url_normalization", url_normalization.into());
    set("url_rules", policy.url_rules.iter().map(url_rule).collect());
    set("user_agents", policy.user_agents.iter().map(|agent| json!({"name": agent.name})).collect());
    members
}

fn mime_type_rule(rule: &PolicyMimeTypeRule) -> Value {
    let mut members = Map::new();
    insert(&mut members, "pattern", rule.pattern.as_deref());
    insert(&mut members, "match", match_name(rule.r#match));
    insert(&mut members, "save", rule.save);
    members.into()
}

fn proxy_rule(rule: &PolicyProxyRule) -> Value {
    let mut members = Map::new();
    insert(&mut members, "pattern", rule.pattern.as_deref());
    insert(&mut members, "match", match_name(rule.r#match));
    insert(&mut members, "proxy_url", rule.proxy_url.as_deref());
    members.into()
}

fn url_rule(rule: &PolicyUrlRule) -> Value {
    let action = rule.action.and_then(|number| Action::try_from(number).ok());
    let mut members = Map::new();
    insert(&mut members, "pattern", rule.pattern.as_deref());
    insert(&mut members, "match", match_name(rule.r#match));
    insert(&mut members, "action", action.map(|action| action.as_str_name()));
    insert(&mut members, "amount", rule.amount.and_then(stored_number));
    members.into()
}

fn match_name(number: Option<i32>) -> Option<&'static str> {
    number.and_then(|number| PatternMatch::try_from(number).ok()).map(|value| value.as_str_name())
}

fn insert(members: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        members.insert(name.to_owned(), value.into());
    }
}

/// Fills in `policy` from the members of its row.
pub(super) fn read(policy: Policy, members: &mut Reader<'_, '_>) -> Policy {
    Policy {
        authentication: Some(PolicyAuthentication {
            enabled: members.object("authentication").required("enabled", boolean),
        }),
        captcha_solver_id: members.nullable("captcha_solver_id", uuid),
        limits: Some(read_limits(members.object("limits"))),
        mime_type_rules: members.objects("mime_type_rules", read_mime_type_rule),
        proxy_rules: members.objects("proxy_rules", read_proxy_rule),
        robots_txt: Some(read_robots_txt(members.object("robots_txt"))),
        url_normalization: Some(read_url_normalization(members.object("url_normalization"))),
        url_rules: members.objects("url_rules", read_url_rule),
        user_agents: members
            .objects("user_agents", |agent| PolicyUserAgent { name: agent.required("name", text).unwrap_or_default() }),
        ..policy
    }
}

fn read_limits(mut limits: Reader<'_, '_>) -> PolicyLimits {
    PolicyLimits {
        max_cost: limits.nullable("max_cost", finite),
        max_duration: limits.nullable("max_duration", finite),
        max_items: limits.nullable("max_items", int32),
    }
}

fn read_mime_type_rule(rule: &mut Reader<'_, '_>) -> PolicyMimeTypeRule {
    PolicyMimeTypeRule {
        pattern: rule.optional("pattern", text),
        r#match: read_match(rule),
        save: rule.optional("save", boolean),
    }
}

fn read_proxy_rule(rule: &mut Reader<'_, '_>) -> PolicyProxyRule {
    PolicyProxyRule {
        pattern: rule.optional("pattern", text),
        r#match: read_match(rule),
        proxy_url: rule.optional("proxy_url", text),
    }
}

fn read_robots_txt(mut robots: Reader<'_, '_>) -> PolicyRobotsTxt {
    // These two are in rows, but in no message.
    robots.optional("read_sitemaps", boolean);
    robots.optional("obey_crawl_delay", boolean);
    let number_of = |name: &str| Usage::from_str_name(name).map(i32::from);
    let usage = robots.required("usage", named(number_of, "must be OBEY, INVERT or IGNORE"));
    PolicyRobotsTxt { usage: usage.unwrap_or_else(|| Usage::default().into()) }
}

fn read_url_normalization(mut normalization: Reader<'_, '_>) -> PolicyUrlNormalization {
    PolicyUrlNormalization {
        enabled: normalization.optional("enabled", boolean),
        strip_parameters: normalization.texts("strip_parameters", Presence::Optional),
    }
}

fn read_url_rule(rule: &mut Reader<'_, '_>) -> PolicyUrlRule {
    let number_of = |name: &str| Action::from_str_name(name).map(i32::from);
    PolicyUrlRule {
        pattern: rule.optional("pattern", text),
        r#match: read_match(rule),
        action: rule.optional("action", named(number_of, "must be ADD or MULTIPLY")),
        amount: rule.optional("amount", finite),
    }
}

fn read_match(rule: &mut Reader<'_, '_>) -> Option<i32> {
    let number_of = |name: &str| PatternMatch::from_str_name(name).map(i32::from);
    rule.optional("match", named(number_of, "must be MATCHES or DOES_NOT_MATCH"))
}
