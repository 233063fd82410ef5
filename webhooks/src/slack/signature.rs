//! Who really sent a request of Slack: HMAC-SHA256 over version, time and raw body.
//! Source: Slack's "Verifying requests from Slack".

use axum::http::HeaderMap;
use bytes::Bytes;

use super::SlackDoor;
use crate::answer::Problem;

const SIGNATURE: &str = "x-slack-signature";
const TIME: &str = "x-slack-request-timestamp";
/// In seconds. What is older may be a replay.
const MAX_AGE: i64 = 300;

/// Checks who signed it and when. One answer for every way to be wrong.
pub(super) fn verify(headers: &HeaderMap, body: &Bytes, door: &SlackDoor) -> Result<(), Problem> {
    let only = |name| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())?.to_str().ok()
    };
    let (time, given) = only(TIME).zip(only(SIGNATURE)).ok_or(Problem::BadSlackSignature)?;
    let signed_at: i64 = time.parse().map_err(|_| Problem::BadSlackSignature)?;
    let mut signature = [0; 32];
    let digits = given.strip_prefix("v0=").filter(|digits| !digits.bytes().any(|b| b.is_ascii_uppercase()));
    let read = digits.map(|digits| hex::decode_to_slice(digits, &mut signature));
    let mut signed = format!("v0:{time}:").into_bytes();
    signed.extend_from_slice(body);
    // The signature first: the age of what a stranger sent is nobody's business.
    if !matches!(read, Some(Ok(()))) || !door.secrets.signed(&signed, &signature) {
        return Err(Problem::BadSlackSignature);
    }
    match (door.now)().timestamp().checked_sub(signed_at).and_then(i64::checked_abs) {
        Some(age) if age <= MAX_AGE => Ok(()),
        _ => Err(Problem::BadSlackSignature),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use secrecy::SecretString;
    use tasks::Timestamp;

    use super::*;
    use crate::Secrets;

    /// The vector of Slack's documentation.
    const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
    const BODY: &str = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    const SIGNED: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    const AT: i64 = 1_531_420_618;

    fn door(now: fn() -> Timestamp) -> SlackDoor {
        SlackDoor { secrets: Secrets::new(vec![SecretString::from(SECRET)]).unwrap(), now }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(seconds, 0).unwrap()
    }

    fn check(time: &str, signature: &str, body: &'static str, now: fn() -> Timestamp) -> Result<(), Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(TIME, HeaderValue::from_str(time).unwrap());
        headers.insert(SIGNATURE, HeaderValue::from_str(signature).unwrap());
        verify(&headers, &Bytes::from_static(body.as_bytes()), &door(now))
    }

    #[test]
    fn the_published_vector_is_accepted_for_five_minutes() {
        let time = AT.to_string();
        assert_eq!(check(&time, SIGNED, BODY, || at(AT)), Ok(()));
        assert_eq!(check(&time, SIGNED, BODY, || at(AT + 300)), Ok(()));
        assert_eq!(check(&time, SIGNED, BODY, || at(AT + 301)), Err(Problem::BadSlackSignature));
        assert_eq!(check(&time, SIGNED, BODY, || at(AT - 301)), Err(Problem::BadSlackSignature));
    }

    #[test]
    fn nothing_else_is_accepted() {
        let time = AT.to_string();
        for (time, signature, body) in [
            (time.as_str(), SIGNED, "token=other"),
            ("1531420619", SIGNED, BODY),
            ("-9223372036854775808", SIGNED, BODY),
            ("now", SIGNED, BODY),
            (time.as_str(), "v0=", BODY),
            (time.as_str(), "v1=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503", BODY),
            (time.as_str(), &SIGNED.to_uppercase(), BODY),
            (time.as_str(), &SIGNED[..SIGNED.len() - 1], BODY),
        ] {
            assert_eq!(check(time, signature, body, || at(AT)), Err(Problem::BadSlackSignature), "{time} {signature}");
        }
    }
}
