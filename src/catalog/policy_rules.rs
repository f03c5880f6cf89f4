//! What a policy must be like for the crawler to take it. The first rule that is broken is the one that is told.

use super::python_format;
use super::python_regex;
use crate::proto::policy_robots_txt::Usage;
use crate::proto::policy_url_rule::Action;
use crate::proto::{
    PatternMatch, Policy, PolicyLimits, PolicyMimeTypeRule, PolicyProxyRule, PolicyUrlRule, PolicyUserAgent,
};

const PROXY_SCHEMES: [&str; 5] = ["http", "https", "socks4", "socks4a", "socks5"];

/// Checks all of `policy`. The error is the text for the client; it repeats nothing of the policy.
pub(super) fn check(policy: &Policy) -> Result<(), String> {
    if is_blank(&policy.name) {
        return Err("Policy name cannot be blank.".to_owned());
    }
    check_limits(&policy.limits.unwrap_or_default())?;
    let Some((last, rules)) = policy.mime_type_rules.split_last() else {
        return Err("At least one MIME type rule is required.".to_owned());
    };
    each(rules, "MIME type rule", check_mime_type_rule)?;
    located(check_last_mime_type_rule(last), "last MIME type rule")?;
    if let Some((last, rules)) = policy.proxy_rules.split_last() {
        each(rules, "proxy rule", check_proxy_rule)?;
        located(check_last_proxy_rule(last), "last proxy rule")?;
    }
    if policy.robots_txt.is_none_or(|robots| Usage::try_from(robots.usage).is_err()) {
        return Err("Robots.txt usage is required.".to_owned());
    }
    let Some((last, rules)) = policy.url_rules.split_last() else {
        return Err("At least one URL rule is required.".to_owned());
    };
    each(rules, "URL rule", check_url_rule)?;
    located(check_last_url_rule(last), "last URL rule")?;
    if policy.user_agents.is_empty() {
        return Err("At least one user agent is required.".to_owned());
    }
    each(&policy.user_agents, "User agent", check_user_agent)
}

/// What is wrong with a rule; where goes after it.
type Checked = Result<(), String>;

fn check_limits(limits: &PolicyLimits) -> Result<(), String> {
    require(limits.max_duration.is_none_or(|seconds| seconds >= 0.0), "Max duration must be ≥0.")?;
    require(limits.max_items.is_none_or(|items| items >= 0), "Max items must be ≥0.")?;
    // Neither a row nor the crawler can have these.
    require(limits.max_cost.is_none_or(f64::is_finite), "Max cost must be a finite number.")?;
    require(limits.max_duration.is_none_or(f64::is_finite), "Max duration must be a finite number.")
}

fn check_mime_type_rule(rule: &PolicyMimeTypeRule) -> Checked {
    require(!is_blank(&rule.pattern), "Pattern is required")?;
    require(rule.save.is_some(), "Save selector is required")?;
    require(has_match(rule.r#match), "Match selector is required")?;
    check_pattern(rule.pattern())
}

fn check_last_mime_type_rule(rule: &PolicyMimeTypeRule) -> Checked {
    require(rule.save.is_some(), "Save selector is required")?;
    require(rule.pattern.is_none(), "Pattern is not allowed")?;
    require(!has_match(rule.r#match), "Match selector is not allowed")
}

fn check_proxy_rule(rule: &PolicyProxyRule) -> Checked {
    require(!is_blank(&rule.pattern), "Pattern is required")?;
    check_pattern(rule.pattern())?;
    require(has_match(rule.r#match), "Match selector is required")?;
    require(!rule.proxy_url().is_empty(), "Proxy URL is required")?;
    check_proxy_url(rule)
}

fn check_last_proxy_rule(rule: &PolicyProxyRule) -> Checked {
    require(rule.pattern.is_none() && !has_match(rule.r#match), "Pattern is not allowed")?;
    check_proxy_url(rule)
}

fn check_url_rule(rule: &PolicyUrlRule) -> Checked {
    require(!is_blank(&rule.pattern), "Pattern is required")?;
    require(has_match(rule.r#match), "Match selector is required")?;
    require(has_action(rule.action), "Action selector is required")?;
    require(rule.amount.is_some(), "Amount is required")?;
    let pattern = python_format::expand(rule.pattern(), "SEED_DOMAINS", "example.com");
    check_pattern(&pattern.map_err(|_| INVALID_PATTERN.to_owned())?)?;
    check_amount(rule)
}

fn check_last_url_rule(rule: &PolicyUrlRule) -> Checked {
    require(rule.pattern.is_none(), "Pattern is not allowed")?;
    require(!has_match(rule.r#match), "Match is not allowed")?;
    require(has_action(rule.action), "Action is required")?;
    require(rule.amount.is_some(), "Amount is required")?;
    check_amount(rule)
}

fn check_amount(rule: &PolicyUrlRule) -> Checked {
    require(rule.amount().is_finite(), "Amount must be a finite number")
}

fn check_user_agent(agent: &PolicyUserAgent) -> Checked {
    require(!is_blank(&Some(&agent.name)), "Name is required")?;
    // The crawler fills in the name when a job starts, and the job fails if it cannot.
    let is_fillable = python_format::expand(&agent.name, "VERSION", "1.0.0").is_ok();
    require(is_fillable, "Name may have no variable but VERSION")
}

const INVALID_PATTERN: &str = "Invalid regular expression";

fn check_pattern(pattern: &str) -> Checked {
    python_regex::check(pattern).map_err(|python_regex::Invalid| INVALID_PATTERN.to_owned())
}

fn check_proxy_url(rule: &PolicyProxyRule) -> Checked {
    if rule.proxy_url.as_deref().is_none_or(|url| is_proxy_url(url.trim())) {
        return Ok(());
    }
    let schemes = PROXY_SCHEMES.join(", ");
    Err(format!("Must have a valid URL with one of the following schemes: {schemes}"))
}

fn is_proxy_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = match address.strip_prefix('[').map(|address| address.split_once(']')) {
        Some(Some((host, port))) => (host, port),
        Some(None) => return false,
        None => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    let is_host = |character: char| !character.is_whitespace() && !character.is_control() && !"[]".contains(character);
    let is_port = |port: &str| port.bytes().all(|digit| digit.is_ascii_digit()) && port.parse::<u16>().is_ok();
    PROXY_SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme))
        && !host.is_empty()
        && host.chars().all(is_host)
        && (port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.is_empty() || is_port(port)))
}

/// Numbers that the enum does not have read as absent.
fn has_match(number: Option<i32>) -> bool {
    number.is_some_and(|number| PatternMatch::try_from(number).is_ok())
}

fn has_action(number: Option<i32>) -> bool {
    number.is_some_and(|number| Action::try_from(number).is_ok())
}

/// Absent, or nothing but what Python takes for blanks.
pub(super) fn is_blank(text: &Option<impl AsRef<str>>) -> bool {
    let is_blank = |character: char| character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character);
    text.as_ref().is_none_or(|text| text.as_ref().chars().all(is_blank))
}

fn require(condition: bool, otherwise: &str) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn each<T>(rules: &[T], what: &str, check: fn(&T) -> Checked) -> Result<(), String> {
    (1..).zip(rules).try_for_each(|(number, rule)| located(check(rule), &format!("{what} #{number}")))
}

fn located(checked: Checked, location: &str) -> Result<(), String> {
    checked.map_err(|text| format!("{text} in {location}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::PolicyRobotsTxt;

    fn mime(pattern: Option<&str>, matches: Option<i32>, save: Option<bool>) -> PolicyMimeTypeRule {
        PolicyMimeTypeRule { pattern: pattern.map(str::to_owned), r#match: matches, save }
    }

    fn proxy(pattern: Option<&str>, matches: Option<i32>, url: Option<&str>) -> PolicyProxyRule {
        PolicyProxyRule { pattern: pattern.map(str::to_owned), r#match: matches, proxy_url: url.map(str::to_owned) }
    }

    fn url(pattern: Option<&str>, matches: Option<i32>, action: Option<i32>, amount: Option<f64>) -> PolicyUrlRule {
        PolicyUrlRule { pattern: pattern.map(str::to_owned), r#match: matches, action, amount }
    }

    fn agent(name: &str) -> PolicyUserAgent {
        PolicyUserAgent { name: name.to_owned() }
    }

    fn valid() -> Policy {
        Policy {
            name: Some("News".to_owned()),
            mime_type_rules: vec![mime(Some("^text/"), Some(1), Some(true)), mime(None, None, Some(false))],
            proxy_rules: vec![proxy(Some("a"), Some(2), Some("socks5://p:1080")), proxy(None, None, None)],
            robots_txt: Some(PolicyRobotsTxt { usage: 1 }),
            url_rules: vec![
                url(Some("^https?://({SEED_DOMAINS})/"), Some(1), Some(1), Some(1.0)),
                url(None, None, Some(2), Some(0.0)),
            ],
            user_agents: vec![agent("Crawler/{VERSION} (+https://example.com)")],
            ..Policy::default()
        }
    }

    fn limits(max_cost: f64, max_duration: f64, max_items: i32) -> Option<PolicyLimits> {
        Some(PolicyLimits { max_cost: Some(max_cost), max_duration: Some(max_duration), max_items: Some(max_items) })
    }

    #[test]
    fn a_policy_as_clients_send_it_is_valid() {
        assert_eq!(check(&valid()), Ok(()));
        let changes: [Change; _] = [
            |policy| policy.proxy_rules.clear(),
            |policy| policy.proxy_rules = vec![proxy(None, None, None)],
            |policy| policy.proxy_rules = vec![proxy(None, None, Some(" http://proxy.example "))],
            // Numbers that the enum does not have read as absent.
            |policy| policy.mime_type_rules[1].r#match = Some(77),
            |policy| policy.url_rules[1].r#match = Some(77),
            |policy| policy.limits = limits(-1.0, 0.0, 0),
            |policy| policy.limits = Some(PolicyLimits::default()),
            |policy| policy.mime_type_rules[0].pattern = Some(r"^(?!text/css)\w+(?<=l)$".to_owned()),
            |policy| policy.url_rules[0].pattern = Some(r"/\d{{4}}/(?P<n>a)(?P=n)".to_owned()),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut policy = valid();
            change(&mut policy);
            assert_eq!(check(&policy), Ok(()), "change {number}");
        }
    }

    type Change = fn(&mut Policy);

    const BROKEN: &[(Change, &str)] = &[
        (|p| p.name = None, "Policy name cannot be blank."),
        (|p| p.name = Some(" \t\u{a0}\u{1f}".into()), "Policy name cannot be blank."),
        (|p| p.limits = limits(0.0, -0.5, -1), "Max duration must be ≥0."),
        (|p| p.limits = limits(0.0, f64::NAN, 0), "Max duration must be ≥0."),
        (|p| p.limits = limits(0.0, 0.0, -1), "Max items must be ≥0."),
        (|p| p.limits = limits(f64::NAN, 0.0, 0), "Max cost must be a finite number."),
        (|p| p.limits = limits(0.0, f64::INFINITY, 0), "Max duration must be a finite number."),
        (|p| p.mime_type_rules.clear(), "At least one MIME type rule is required."),
        (|p| p.mime_type_rules[0] = mime(None, None, None), "Pattern is required in MIME type rule #1."),
        (|p| p.mime_type_rules[0] = mime(Some(" "), Some(1), Some(true)), "Pattern is required in MIME type rule #1."),
        (|p| p.mime_type_rules[0] = mime(Some("("), None, None), "Save selector is required in MIME type rule #1."),
        (
            |p| p.mime_type_rules[0] = mime(Some("("), None, Some(true)),
            "Match selector is required in MIME type rule #1.",
        ),
        (|p| p.mime_type_rules[0].r#match = Some(3), "Match selector is required in MIME type rule #1."),
        (
            |p| p.mime_type_rules[0] = mime(Some("("), Some(1), Some(true)),
            "Invalid regular expression in MIME type rule #1.",
        ),
        (
            |p| p.mime_type_rules.insert(1, mime(Some("a**"), Some(2), Some(true))),
            "Invalid regular expression in MIME type rule #2.",
        ),
        (
            |p| p.mime_type_rules[1] = mime(Some("a"), Some(1), None),
            "Save selector is required in last MIME type rule.",
        ),
        (
            |p| p.mime_type_rules[1] = mime(Some(""), Some(1), Some(true)),
            "Pattern is not allowed in last MIME type rule.",
        ),
        (
            |p| p.mime_type_rules[1] = mime(None, Some(1), Some(true)),
            "Match selector is not allowed in last MIME type rule.",
        ),
        (|p| p.proxy_rules[0] = proxy(None, None, None), "Pattern is required in proxy rule #1."),
        (|p| p.proxy_rules[0] = proxy(Some("["), None, None), "Invalid regular expression in proxy rule #1."),
        (|p| p.proxy_rules[0] = proxy(Some("a"), None, None), "Match selector is required in proxy rule #1."),
        (|p| p.proxy_rules[0] = proxy(Some("a"), Some(1), None), "Proxy URL is required in proxy rule #1."),
        (|p| p.proxy_rules[0] = proxy(Some("a"), Some(1), Some("")), "Proxy URL is required in proxy rule #1."),
        (
            |p| p.proxy_rules[0] = proxy(Some("a"), Some(1), Some("ftp://user:hunter2@p")),
            "Must have a valid URL with one of the following schemes: http, https, socks4, socks4a, socks5 in proxy rule #1.",
        ),
        (|p| p.proxy_rules[1] = proxy(Some(""), None, None), "Pattern is not allowed in last proxy rule."),
        (|p| p.proxy_rules[1] = proxy(None, Some(1), None), "Pattern is not allowed in last proxy rule."),
        (
            |p| p.proxy_rules[1] = proxy(None, None, Some("")),
            "Must have a valid URL with one of the following schemes: http, https, socks4, socks4a, socks5 in last proxy rule.",
        ),
        (|p| p.robots_txt = None, "Robots.txt usage is required."),
        (|p| p.robots_txt = Some(PolicyRobotsTxt { usage: 4 }), "Robots.txt usage is required."),
        (|p| p.url_rules.clear(), "At least one URL rule is required."),
        (|p| p.url_rules[0] = url(None, None, None, None), "Pattern is required in URL rule #1."),
        (|p| p.url_rules[0] = url(Some("("), None, None, None), "Match selector is required in URL rule #1."),
        (|p| p.url_rules[0] = url(Some("("), Some(1), None, None), "Action selector is required in URL rule #1."),
        (|p| p.url_rules[0] = url(Some("("), Some(1), Some(9), None), "Action selector is required in URL rule #1."),
        (|p| p.url_rules[0] = url(Some("("), Some(1), Some(1), None), "Amount is required in URL rule #1."),
        (|p| p.url_rules[0].pattern = Some("(".into()), "Invalid regular expression in URL rule #1."),
        (|p| p.url_rules[0].pattern = Some(r"\d{4}".into()), "Invalid regular expression in URL rule #1."),
        (|p| p.url_rules[0].pattern = Some("{SEEDS}".into()), "Invalid regular expression in URL rule #1."),
        (|p| p.url_rules[0].pattern = Some("a}".into()), "Invalid regular expression in URL rule #1."),
        (|p| p.url_rules[0].pattern = Some("{SEED_DOMAINS:(>20}".into()), "Invalid regular expression in URL rule #1."),
        (|p| p.url_rules[0].amount = Some(f64::NAN), "Amount must be a finite number in URL rule #1."),
        (|p| p.url_rules[1] = url(Some(""), Some(1), None, None), "Pattern is not allowed in last URL rule."),
        (|p| p.url_rules[1] = url(None, Some(1), None, None), "Match is not allowed in last URL rule."),
        (|p| p.url_rules[1] = url(None, None, None, None), "Action is required in last URL rule."),
        (|p| p.url_rules[1] = url(None, None, Some(1), None), "Amount is required in last URL rule."),
        (|p| p.url_rules[1].amount = Some(f64::INFINITY), "Amount must be a finite number in last URL rule."),
        (|p| p.user_agents.clear(), "At least one user agent is required."),
        (|p| p.user_agents.push(agent(" ")), "Name is required in User agent #2."),
        (|p| p.user_agents[0] = agent("{FOO}"), "Name may have no variable but VERSION in User agent #1."),
        (|p| p.user_agents[0] = agent("a{"), "Name may have no variable but VERSION in User agent #1."),
    ];

    #[test]
    fn each_broken_rule_has_its_text() {
        for (change, expected) in BROKEN {
            let mut policy = valid();
            change(&mut policy);
            assert_eq!(check(&policy), Err((*expected).to_owned()));
        }
    }

    #[test]
    fn the_first_broken_rule_is_told() {
        let proxy_rules = vec![proxy(Some("a"), None, None)];
        let mut policy = Policy { limits: limits(0.0, 0.0, -1), proxy_rules, ..Policy::default() };
        let steps: [(&str, Change); _] = [
            ("Policy name cannot be blank.", |p| p.name = valid().name),
            ("Max items must be ≥0.", |p| p.limits = None),
            ("At least one MIME type rule is required.", |p| p.mime_type_rules = valid().mime_type_rules),
            ("Pattern is not allowed in last proxy rule.", |p| p.proxy_rules = valid().proxy_rules),
            ("Robots.txt usage is required.", |p| p.robots_txt = valid().robots_txt),
            ("At least one URL rule is required.", |p| p.url_rules = valid().url_rules),
            ("At least one user agent is required.", |p| p.user_agents = valid().user_agents),
        ];
        for (expected, repair) in steps {
            assert_eq!(check(&policy), Err(expected.to_owned()));
            repair(&mut policy);
        }
        assert_eq!(check(&policy), Ok(()));
    }

    #[test]
    fn proxy_urls_have_a_scheme_and_a_host() {
        for url in [
            "http://proxy",
            "https://user:pass@proxy.example:8080/",
            "SOCKS4://10.0.0.1:1080",
            "socks4a://proxy.example?x",
            "socks5://[::1]:1080",
            "http://proxy:",
        ] {
            assert!(is_proxy_url(url), "{url}");
        }
        for url in [
            "",
            "proxy",
            "//proxy",
            "http:",
            "http://",
            "http:///path",
            "http://user@",
            "http://:80",
            "ftp://proxy",
            "socks://proxy",
            "http://[::1",
            "http://[]",
            "http://[::1]x",
            "http://a b",
            "http://proxy:http",
            "http://proxy:65536",
            "http://proxy:+1",
        ] {
            assert!(!is_proxy_url(url), "{url}");
        }
    }
}
