//! What people say in a chat, before it is known which repository it is about.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{repo::RepoName, task::TaskId};

/// A conversation in a chat: a message and what was answered to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ChatThread {
    /// The id of the channel, which is also that of a direct conversation.
    pub channel: String,
    /// The id of the first message, which in Slack is its time. Empty: nothing was said there yet.
    pub first: String,
}

/// Something that a person did in a chat. Who they are on the forge, and whether they may, is asked before anything is
/// done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Said {
    /// Where.
    pub thread: ChatThread,
    /// The id of the person in the chat.
    pub by: String,
    /// What they want.
    pub wish: ChatWish,
}

/// What somebody wants who says something in a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub enum ChatWish {
    /// They spoke to Onramp: by name, in a direct conversation, with a command or about a message.
    Ask {
        /// What they said, without the name.
        text: String,
    },
    /// They said something in a conversation. It counts only where that is about a task.
    Reply {
        /// What.
        text: String,
    },
    /// They said which repository an earlier message was about.
    Choose {
        /// The message that asked them.
        question: String,
        /// The repository.
        repo: RepoName,
    },
    /// They pressed a button below what was told of a task.
    Press {
        /// The task.
        task: TaskId,
        /// Which button.
        button: Button,
    },
}

/// What can be pressed below what is told of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Button {
    /// Stop what waits or runs.
    Stop,
    /// Try again what failed.
    Retry,
    /// Say what should be different.
    Change,
}

impl Button {
    /// Its name on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Retry => "retry",
            Self::Change => "change",
        }
    }

    /// The button of that name.
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Stop, Self::Retry, Self::Change].into_iter().find(|button| button.word() == word)
    }
}
