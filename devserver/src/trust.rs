//! Checks that only root and this user can change a path. Used for programs before they run, and for folders before
//! files are written into them.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, geteuid};

const GROUP_WRITABLE: u32 = 0o020;
const OTHERS_WRITABLE: u32 = 0o002;
/// The sticky bit of a folder: only the owner of an entry may rename or delete it.
const STICKY: u32 = 0o1000;

/// Why a path is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untrusted {
    /// The file or folder of the path that other users can change.
    pub path: PathBuf,
    reason: UntrustedReason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum UntrustedReason {
    Owner(String),
    Writable,
    Unreadable(String),
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.reason {
            UntrustedReason::Owner(owner) => write!(f, "{path} belongs to user {owner}"),
            UntrustedReason::Writable => write!(f, "other users may write to {path}"),
            UntrustedReason::Unreadable(error) => write!(f, "{path} cannot be looked at ({error})"),
        }
    }
}

impl std::error::Error for Untrusted {}

/// Resolves links and checks that only root and this user can change any part of the path.
///
/// # Errors
/// [`Untrusted`] names the first file or folder that another user owns or may write to. A folder with the sticky bit,
/// such as `/tmp`, is accepted on the way but not at the end.
pub fn resolved(path: &Path) -> Result<PathBuf, Untrusted> {
    let unreadable = |error: std::io::Error| Untrusted {
        path: path.to_owned(),
        reason: UntrustedReason::Unreadable(error.to_string()),
    };
    let given = std::path::absolute(path).map_err(unreadable)?;
    let resolved = given.canonicalize().map_err(unreadable)?;
    // Check the path before and after links are resolved: a link in another user's folder may change a moment later.
    check(&given, PathEnd::Exact)?;
    check(&resolved, PathEnd::Exact)?;
    Ok(resolved)
}

/// Whether entries that are created below the deepest existing folder of `path` cannot be replaced by others.
///
/// # Errors
/// [`Untrusted`] names the first folder that another user owns or may write to. A folder with the sticky bit is
/// accepted.
pub fn parents(path: &Path) -> Result<(), Untrusted> {
    match path.ancestors().skip(1).find(|folder| folder.symlink_metadata().is_ok()) {
        // In a sticky folder, the owner of a new entry is checked after its creation.
        Some(folder) => check(folder, PathEnd::Parent),
        None => Ok(()),
    }
}

/// The role of the last part of a checked path.
#[derive(Clone, Copy, PartialEq)]
enum PathEnd {
    /// The file or folder that is used.
    Exact,
    /// A parent folder of it.
    Parent,
}

fn check(path: &Path, end: PathEnd) -> Result<(), Untrusted> {
    let mut places: Vec<&Path> = path.ancestors().collect();
    places.reverse();
    for place in &places {
        let untrusted = |reason| Untrusted { path: (*place).to_owned(), reason };
        let metadata = place
            .symlink_metadata()
            .map_err(|error| untrusted(UntrustedReason::Unreadable(error.to_string())))?;
        let owner = Uid::from_raw(metadata.uid());
        if !owner.is_root() && owner != geteuid() {
            return Err(untrusted(UntrustedReason::Owner(name_of(owner))));
        }
        let sticky =
            metadata.is_dir() && metadata.mode() & STICKY != 0 && (*place != path || end == PathEnd::Parent);
        if !metadata.is_symlink() && !sticky && others_may_write(&metadata) {
            return Err(untrusted(UntrustedReason::Writable));
        }
    }
    Ok(())
}

fn others_may_write(metadata: &Metadata) -> bool {
    let mode = metadata.mode();
    mode & OTHERS_WRITABLE != 0
        || (mode & GROUP_WRITABLE != 0
            && !is_private_group(Gid::from_raw(metadata.gid()), Uid::from_raw(metadata.uid())))
}

/// Whether a group belongs to its owner alone, as on systems with a group for each user: it has the owner's name, is
/// the owner's primary group and has no other member.
fn is_private_group(group: Gid, owner: Uid) -> bool {
    let (Ok(Some(group)), Ok(Some(owner))) = (Group::from_gid(group), User::from_uid(owner)) else {
        return false;
    };
    group.name == owner.name
        && group.gid == owner.gid
        && group.mem.iter().all(|member| *member == owner.name || member == "root")
}

fn name_of(user: Uid) -> String {
    User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    use tempfile::TempDir;

    use super::*;

    /// A program in two folders of this user.
    fn program() -> (TempDir, PathBuf) {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        let folder = root.path().join("tools/bin");
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        let program = folder.join("nats-server");
        write(&program, "#!/bin/sh\n").expect("it can be written");
        for path in [root.path().join("tools"), folder, program.clone()] {
            set_permissions(path, Permissions::from_mode(0o755)).expect("it is ours");
        }
        (root, program)
    }

    /// A user that is neither root nor this one; `None` where this process cannot give files away.
    fn somebody_else() -> Option<(u32, u32)> {
        if !geteuid().is_root() {
            eprintln!("not root: files cannot be given to another user, so ownership is not tried");
            return None;
        }
        let user = User::from_name("nobody").ok().flatten()?;
        Some((user.uid.as_raw(), user.gid.as_raw()))
    }

    #[test]
    fn a_program_that_only_its_owner_can_change_is_accepted() {
        let (_root, program) = program();
        assert_eq!(resolved(&program), Ok(program.canonicalize().expect("it is there")));
    }

    #[test]
    fn a_program_or_folder_that_others_may_write_to_is_refused_by_name() {
        for (mode, place) in [
            (0o757, "tools/bin/nats-server"),
            (0o777, "tools/bin"),
            (0o757, "tools"),
            // The sticky bit protects entries of a folder, not the folder at the end of the path.
            (0o1777, "tools/bin/sub"),
        ] {
            let (root, program) = program();
            let open = root.path().join(place);
            let end = if place.ends_with("sub") { open.clone() } else { program };
            if place.ends_with("sub") {
                create_dir(&open).expect("the folder is ours");
            }
            set_permissions(&open, Permissions::from_mode(mode)).expect("it is ours");
            let refused = resolved(&end).expect_err("others may write");
            assert_eq!(refused.path, open);
            assert_eq!(refused.to_string(), format!("other users may write to {}", open.display()));
        }
    }

    #[test]
    fn a_program_below_a_sticky_folder_is_accepted() {
        let (root, program) = program();
        set_permissions(root.path(), Permissions::from_mode(0o1777)).expect("it is ours");
        assert!(resolved(&program).is_ok());
    }

    #[test]
    fn a_group_that_others_are_in_may_not_write() {
        let Some((_, group)) = somebody_else() else { return };
        let (root, program) = program();
        let tools = root.path().join("tools");
        set_permissions(&tools, Permissions::from_mode(0o775)).expect("it is ours");
        assert!(resolved(&program).is_ok(), "the group is root's own");
        lchown(&tools, None, Some(group)).expect("root may");
        set_permissions(&tools, Permissions::from_mode(0o775)).expect("it is ours");
        assert_eq!(resolved(&program).expect_err("the group may write").path, tools);
    }

    #[test]
    fn what_belongs_to_another_user_is_refused_wherever_it_is_on_the_way() {
        let Some((uid, gid)) = somebody_else() else { return };
        for place in ["tools", "tools/bin", "tools/bin/nats-server"] {
            let (root, program) = program();
            let given = root.path().join(place);
            lchown(&given, Some(uid), Some(gid)).expect("root may");
            let refused = resolved(&program).expect_err("it is not ours");
            assert_eq!((refused.path, refused.reason), (given, UntrustedReason::Owner("nobody".to_owned())));
        }
    }

    #[test]
    fn links_are_followed_and_those_of_another_user_are_refused() {
        let (root, program) = program();
        let link = root.path().join("link");
        symlink(&program, &link).expect("the folder is ours");
        assert_eq!(resolved(&link), Ok(program.canonicalize().expect("it is there")));

        let Some((uid, gid)) = somebody_else() else { return };
        lchown(&link, Some(uid), Some(gid)).expect("root may");
        assert_eq!(resolved(&link).expect_err("another user made the link").path, link);

        // A trusted link to a path that others can change.
        let (_other, target) = self::program();
        lchown(target.parent().expect("a folder"), Some(uid), Some(gid)).expect("root may");
        let link = root.path().join("second");
        symlink(&target, &link).expect("the folder is ours");
        assert!(resolved(&link).is_err());
    }

    #[test]
    fn parents_of_what_is_to_be_made_are_checked_before_it_is_made() {
        let (root, _) = program();
        let path = root.path().join("tools/new/data");
        assert_eq!(parents(&path), Ok(()));
        set_permissions(root.path().join("tools"), Permissions::from_mode(0o777)).expect("it is ours");
        assert!(parents(&path).is_err());
        set_permissions(root.path().join("tools"), Permissions::from_mode(0o1777)).expect("it is ours");
        assert_eq!(parents(&path), Ok(()));
    }
}
