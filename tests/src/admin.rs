//! The admin interface, as a client of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::client::Client;
use crate::expect::SOON;
use crate::http1::Fields;

/// A client of one admin address.
#[derive(Debug, Clone, Copy)]
pub struct Admin {
    addr: SocketAddr,
}

/// What an admin endpoint answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub fields: Fields,
    pub body: String,
}

impl Admin {
    /// Of the server at `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr }
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// One request on a connection of its own.
    pub async fn request(&self, method: &str, path: &str) -> Result<Answer> {
        let mut client = Client::connect(self.addr).await?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        client.send(request.as_bytes()).await?;
        let response = client.response(method, SOON).await.with_context(|| format!("{method} {path}"))?;
        let body = String::from_utf8_lossy(&response.body).into_owned();
        Ok(Answer { status: response.head.status()?, fields: response.head.fields, body })
    }

    /// The body of a GET that must answer 200.
    pub async fn get(&self, path: &str) -> Result<String> {
        let answer = self.request("GET", path).await?;
        ensure!(answer.status == 200, "GET {path}: {} {}", answer.status, answer.body);
        Ok(answer.body)
    }

    /// Whether `/ready` says 200 `LIVE`.
    pub async fn live(&self) -> bool {
        matches!(self.request("GET", "/ready").await, Ok(answer) if answer.status == 200 && answer.body == "LIVE\n")
    }

    /// The address of each listener by name, from `/listeners?format=json`.
    pub async fn listeners(&self) -> Result<BTreeMap<String, SocketAddr>> {
        let json: Value = serde_json::from_str(&self.get("/listeners?format=json").await?)?;
        let mut listeners = BTreeMap::new();
        for status in json["listener_statuses"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let address = &status["local_address"]["socket_address"];
            if let (Some(name), Some(ip), Some(port)) =
                (status["name"].as_str(), address["address"].as_str(), address["port_value"].as_u64())
            {
                let addr = SocketAddr::new(ip.parse()?, u16::try_from(port)?);
                listeners.insert(name.to_owned(), addr);
            }
        }
        Ok(listeners)
    }

    /// Counters and gauges whose names match the regular expression.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, i64>> {
        let text = self.get(&format!("/stats?filter={}", percent_encode(filter))).await?;
        let mut stats = BTreeMap::new();
        for line in text.lines() {
            if let Some((name, value)) = line.split_once(": ")
                && let Ok(value) = value.parse()
            {
                stats.insert(name.to_owned(), value);
            }
        }
        Ok(stats)
    }

    /// The value of one counter or gauge; 0 while it does not exist.
    pub async fn stat(&self, name: &str) -> Result<i64> {
        let filter = format!("^{}$", name.replace('.', "\\."));
        Ok(self.stats(&filter).await?.get(name).copied().unwrap_or(0))
    }

    /// `/config_dump` with that query (may be empty).
    pub async fn config_dump(&self, query: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.get(&format!("/config_dump{query}")).await?)?)
    }
}

fn percent_encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
