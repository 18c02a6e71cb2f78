/** What must always be in sight: research use only, and what the model's training means for its answers. */

import { notices } from "../session";

const IS_GENERAL = /^for research use only/i;

export function Notices() {
  const general = notices.value.filter((notice) => IS_GENERAL.test(notice));
  const warnings = notices.value.filter((notice) => !IS_GENERAL.test(notice));
  const research = general.length > 0 ? general : ["For research use only. Not a medical device."];
  return (
    <div class="notices" role="note" aria-label="Notices">
      {warnings.map((notice) => (
        <p class="warning" key={notice}>
          <span aria-hidden="true">⚠ </span>
          {notice}
        </p>
      ))}
      {research.map((notice) => (
        <p key={notice}>{notice}</p>
      ))}
    </div>
  );
}
