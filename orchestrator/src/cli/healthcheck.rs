//! `onramp healthcheck`: whether the `onramp serve` of this configuration takes tasks, for containers without other tools.

use std::{net::IpAddr, time::Duration};

use tasks::{Code, Failure};

use super::Setting;

const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn run(setting: &Setting) -> Result<u8, Failure> {
    let address = format!("http://{}/readyz", reachable(&setting.config.server.listen));
    let not_ready = |why: &dyn std::fmt::Display| {
        Failure::new(Code::StoreUnavailable, format!("{address} does not say that it is ready: {why}"))
            .next("Look at the log of `onramp serve`.")
    };
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build().map_err(Failure::internal)?;
    let answer = client.get(&address).send().await.map_err(|error| not_ready(&error))?;
    if answer.status().is_success() { Ok(0) } else { Err(not_ready(&answer.status())) }
}

/// Where a process that listens so can be reached from this machine.
fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some((host, port)) => match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) if ip.is_unspecified() => format!("127.0.0.1:{port}"),
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => format!("[::1]:{port}"),
            Ok(_) | Err(_) => listen.to_owned(),
        },
        None => listen.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_reached_on_loopback() {
        for (listen, reached) in
            [("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:80", "[::1]:80"), ("10.0.0.1:1", "10.0.0.1:1")]
        {
            assert_eq!(reachable(listen), reached);
        }
    }
}
