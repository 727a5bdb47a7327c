impl Replica {
    fn issue_reads(&mut self) {
        let Some(leader) = self.leader() else { return };
        let raft = &self.raw.raft;
        // A fresh leader would drop the round without a word; and a stalled one must be silent.
        if leader == self.config.id && (!raft.commit_to_current_term() || self.held_back()) {
            return;
        }
        let at = (raft.term, leader);
        while let Some(context) = self.reads.issue(self.now, at) {
            if leader == self.config.id {
                self.raw.read_index(context.encode().to_vec());
            } else {
                let mut ask = Message::new(Kind::ReadAsk, self.config.id, leader);
                ask.context = context.encode();
                self.outbox.push(ask);
            }
        }
    }

    fn step_read_answer(&mut self, message: &Message) {
        if let Some(context) = reads::Context::decode(&message.context) {
            self.confirm_reads(&context, message.index);
        }
    }

    fn confirm_reads(&mut self, context: &reads::Context, index: u64) {
        let (answers, outbox, id) = (&mut self.read_answers, &mut self.outbox, self.config.id);
        self.reads.confirm(context, index, |answer| match answer {
            Answer::Local(token, result) => answers.push((token, result)),
            Answer::Peer {
                member,
                context,
                index,
            } => {
                let mut answer = Message::new(Kind::ReadAnswer, id, member);
                answer.context = context;
                answer.index = index;
                outbox.push(answer);
            }
        });
    }
}
