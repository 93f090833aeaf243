use std::time::Duration;

use prost_types::Any;
use tokio::time::timeout;
use xds_api::envoy::config::cluster::v3::Cluster;

use super::*;
use crate::protocol::{Event, Update, Verdict};

const PATIENCE: Duration = Duration::from_secs(20);

fn response(version: &str, names: &[&str]) -> Vec<u8> {
    let resource = |name: &&str| Any {
        type_url: TypeUrl::CLUSTER.as_str().into(),
        value: Cluster { name: (*name).to_owned(), ..Cluster::default() }.encode_to_vec(),
    };
    let resources = names.iter().map(resource).collect();
    DiscoveryResponse { version_info: version.into(), resources, ..DiscoveryResponse::default() }
        .encode_to_vec()
}

/// Writes beside the file and moves it into place.
fn replace(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

struct Rig {
    client: Client,
    events: Events,
    _driver: tokio::task::JoinHandle<()>,
}

impl Rig {
    fn new(config: FileConfig) -> Self {
        let parse = |_: &Path, bytes: &[u8]| {
            if bytes == b"bad" {
                Err("line 1: bad".to_owned())
            } else {
                Ok(DiscoveryResponse::decode(bytes).unwrap())
            }
        };
        let (client, events, driver) = client(config, Arc::new(parse), Arc::new(()));
        Self { client, events, _driver: tokio::spawn(driver.run()) }
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.next()).await.expect("an event").expect("a living driver")
    }

    async fn update(&mut self) -> Update {
        loop {
            match self.event().await {
                Event::Update(update) => {
                    self.client.verdict(Verdict::accept(&update));
                    return update;
                }
                Event::Connected => {}
                other => panic!("no update but {other:?}"),
            }
        }
    }
}

fn names(update: &Update) -> Vec<&str> {
    update.upserts.iter().map(|upsert| upsert.name.as_str()).collect()
}

#[tokio::test]
async fn a_file_is_taken_when_it_is_moved_into_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cds.pb");
    replace(&path, &response("1", &["a", "b"]));
    let mut rig = Rig::new(FileConfig::new(&path, &TypeUrl::CLUSTER));
    rig.client.subscribe(&TypeUrl::CLUSTER, vec!["*".into()], Duration::ZERO);
    let update = rig.update().await;
    assert_eq!((names(&update), update.version.as_str(), update.full_state), (vec!["a", "b"], "1", true));

    // Written in place, and moved beside: neither counts. Were they taken, the next update would not be version 3.
    std::fs::write(&path, response("2", &["never"])).unwrap();
    replace(&directory.path().join("other.pb"), b"");
    replace(&path, &response("3", &["b"]));
    let update = rig.update().await;
    assert_eq!((names(&update), update.version.as_str()), (vec!["b"], "3"));
    assert_eq!(update.removed, ["a"]);
}

#[tokio::test]
async fn a_bad_file_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cds.yaml");
    let mut config = FileConfig::new(&path, &TypeUrl::CLUSTER);
    config.max_bytes = 100;
    let mut rig = Rig::new(config);
    rig.client.subscribe(&TypeUrl::CLUSTER, vec!["*".into()], Duration::ZERO);
    assert_eq!(rig.event().await, Event::Connected);
    for (bytes, says) in
        [(&b""[..], "No such file"), (b"bad", "line 1: bad"), (&[b' '; 101], "more than 100 bytes")]
    {
        if !bytes.is_empty() {
            replace(&path, bytes);
        }
        match rig.event().await {
            Event::Unreadable { reason, .. } => {
                assert!(reason.contains(says) && reason.contains("cds.yaml"), "{reason}")
            }
            other => panic!("{other:?}"),
        }
    }
    replace(&path, &response("1", &["a"]));
    assert_eq!(names(&rig.update().await), ["a"]);
}

#[tokio::test]
async fn any_move_into_the_watched_directory_counts() {
    // As Kubernetes mounts a ConfigMap: the file is a link through `..data`, and `..data` is replaced.
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let point_at = |version: &str, cluster: &str| {
        let data = root.join(format!("..{version}"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("cds.pb"), response(version, &[cluster])).unwrap();
        std::os::unix::fs::symlink(&data, root.join("..tmp")).unwrap();
        std::fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
    };
    point_at("1", "a");
    std::os::unix::fs::symlink("..data/cds.pb", root.join("cds.pb")).unwrap();
    let mut config = FileConfig::new(&root.join("cds.pb"), &TypeUrl::CLUSTER);
    config.watched_directory = Some(root.to_owned());
    let mut rig = Rig::new(config);
    rig.client.subscribe(&TypeUrl::CLUSTER, vec!["*".into()], Duration::ZERO);
    assert_eq!(names(&rig.update().await), ["a"]);
    point_at("2", "b");
    assert_eq!(names(&rig.update().await), ["b"]);
}

#[tokio::test]
async fn a_name_wanted_later_is_read_from_the_same_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cds.pb");
    replace(&path, &response("1", &["a", "b"]));
    let mut rig = Rig::new(FileConfig::new(&path, &TypeUrl::CLUSTER));
    rig.client.subscribe(&TypeUrl::CLUSTER, vec!["a".into()], Duration::ZERO);
    assert_eq!(names(&rig.update().await), ["a"]);
    rig.client.subscribe(&TypeUrl::CLUSTER, vec!["b".into()], Duration::ZERO);
    assert_eq!(names(&rig.update().await), ["a", "b"]);
}

#[tokio::test]
async fn a_directory_that_appears_later_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("later/cds.pb");
    let mut rig = Rig::new(FileConfig::new(&path, &TypeUrl::CLUSTER));
    rig.client.subscribe(&TypeUrl::CLUSTER, vec!["*".into()], Duration::ZERO);
    assert!(matches!(rig.event().await, Event::Disconnected { reason } if reason.contains("cannot watch")));
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    replace(&path, &response("1", &["a"]));
    loop {
        match rig.event().await {
            Event::Update(update) => return assert_eq!(names(&update), ["a"]),
            Event::Disconnected { .. } | Event::Connected => {}
            other => panic!("{other:?}"),
        }
    }
}
